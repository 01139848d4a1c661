// What an operator says of an incident: the buttons below it, on whatever page it stands.

/** Shows the buttons of `part`; without the script they would do nothing. */
export function offer(part) {
  for (const group of part.querySelectorAll(".judge[hidden]")) group.hidden = false;
}

/** Sends what is said, and has `page` look again. */
export function judging(page) {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-feedback]");
    if (!button) return;
    const { incident } = button.closest("[data-incident]").dataset, said = document.getElementById("said");
    const headers = { "Content-Type": "application/json" };
    const token = document.querySelector("meta[name=csrf]")?.content;
    if (token) headers["X-CSRF-Token"] = token;
    try {
      const answer = await fetch(`/api/v1/anomalies/${encodeURIComponent(incident)}/feedback`, {
        method: "POST",
        headers,
        body: JSON.stringify({ feedback: button.dataset.feedback }),
      });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.detail);
      for (const one of button.parentElement.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === button));
      said.textContent = `Saved: ${button.textContent.toLowerCase()}.`;
      page.now();
    } catch (error) {
      said.textContent = `Not saved: ${error.message}`;
    }
  });
}
