// All incidents, kept current, and what an operator says of them.

import { judging, offer } from "./feedback.js";
import { follow } from "./live.js";

judging(follow(offer));
