// Keeps a page current without reloading it: asks for its part again, changes what differs, shows times in this zone.
// The server alone renders; "now" is what its answers say, never this machine's clock.

const LONGEST_WAIT = 60; // seconds between attempts while the service does not answer

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

/** Times below `root` in the browser's zone, with UTC in the title. */
export function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || time.title) continue;
    time.title = time.dateTime.replace("T", " ").replace("Z", " UTC");
    time.textContent = (time.dataset.show === "clock" ? CLOCK : FULL).format(at);
  }
}

/** Makes `old` like `fresh`, touching only what differs: focus, open details and drawn charts stay. */
export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  // What the script keeps in an element (a chart) belongs to that one: where another stands in its place, it is made anew.
  const other = old.nodeType === Node.ELEMENT_NODE && old.dataset?.keep !== fresh.dataset?.keep;
  if (old.nodeType !== Node.ELEMENT_NODE || fresh.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName || other) {
    old.replaceWith(fresh);
    return;
  }
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    // What the script or the reader has set: hidden, open, aria-sort, and a role that it added.
    if (!fresh.hasAttribute(name) && !["hidden", "open", "data-ready"].includes(name)) old.removeAttribute(name);
  }
  if (old.hasAttribute("data-keep")) return;
  if (old.hasAttribute("data-rows")) rows(old, fresh);
  else children(old, fresh);
}

function children(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, i) => (i < before.length ? morph(before[i], node) : old.append(node)));
  for (const node of before.slice(after.length)) node.remove();
}

/** Rows are known by their key, in whatever order the reader has sorted them. */
function rows(old, fresh) {
  const known = new Map([...old.children].map((row) => [row.dataset.key, row]));
  for (const row of [...fresh.children]) {
    const mine = known.get(row.dataset.key);
    known.delete(row.dataset.key);
    if (mine) morph(mine, row);
    else old.append(row);
  }
  for (const row of known.values()) row.remove();
}

/** Polls the part of this page; `changed` runs after the first look and after each change. */
export function follow(changed = () => {}) {
  document.documentElement.classList.add("js");
  const part = document.getElementById("part");
  if (!part) return { now: () => {} };
  const every = Number(part.dataset.every) || 10;
  const said = Object.assign(document.createElement("p"), { className: "note bad", hidden: true });
  said.setAttribute("role", "status");
  part.before(said);
  let etag = null, failures = 0, timer = 0, busy = false;

  function later() {
    clearTimeout(timer);
    const wait = Math.min(LONGEST_WAIT, every * 2 ** Math.min(failures, 6));
    timer = setTimeout(look, Math.max(every, wait) * 1000);
  }
  function tell(text) {
    said.hidden = !text;
    said.textContent = text;
  }
  async function look() {
    if (document.hidden || busy) return later();
    busy = true;
    try {
      // no-cache: the browser asks with the ETag it has, and an unchanged part travels as a 304.
      const answer = await fetch(part.dataset.part, { cache: "no-cache", signal: AbortSignal.timeout(20000) });
      if (answer.status === 401) tell("The session has ended: reload the page to log in again.");
      else if (answer.status === 404) tell("This workload is not watched any more. What is shown is the last that was known.");
      else if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
      else {
        failures = 0;
        tell("");
        const markup = await answer.text();
        if (answer.headers.get("ETag") !== etag) take(markup);
        etag = answer.headers.get("ETag");
      }
    } catch (error) {
      failures += 1;
      tell(`The service does not answer (${error.message}). What is shown is the last that was known; trying again.`);
    } finally {
      busy = false;
      later();
    }
  }
  function take(markup) {
    const fresh = document.createElement("div");
    fresh.append(...new DOMParser().parseFromString(markup, "text/html").body.childNodes);
    localise(fresh);
    children(part, fresh);
    changed(part);
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look();
  });
  localise(document);
  changed(part);
  later();
  return { now: look };
}

if (document.querySelector(`script[type="module"][src$="/live.js"]`)) follow();
