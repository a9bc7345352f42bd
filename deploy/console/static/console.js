// Makes pages live. Without it everything works: a page is loaded again by hand.
"use strict";

const EVERY_MILLISECONDS = 5000;

// Replaces what has changed in the parts that say so, and leaves alone what somebody uses at this moment.
async function refresh() {
  if (document.hidden) return;
  const parts = [...document.querySelectorAll("[data-part]")];
  const state = document.getElementById("live-state");
  let answer;
  try {
    answer = await fetch(location.href, { headers: { "X-Live": "1" }, credentials: "same-origin" });
  } catch {
    if (state) state.textContent = "not refreshed: the console does not answer";
    return;
  }
  if (answer.status === 401) { location.reload(); return; }
  if (!answer.ok) {
    if (state) state.textContent = `not refreshed: status ${answer.status}`;
    return;
  }
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const fresh = found.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!fresh || fresh.innerHTML === part.innerHTML) continue;
    if (part.contains(document.activeElement) || hasSelection(part)) continue;
    const open = [...part.querySelectorAll("details")].map((it) => it.open);
    part.innerHTML = fresh.innerHTML;
    [...part.querySelectorAll("details")].forEach((it, place) => { if (open[place]) it.open = true; });
  }
  if (state) state.textContent = `refreshed at ${new Date().toISOString().slice(11, 19)} UTC`;
}

function hasSelection(part) {
  const selection = getSelection();
  return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
}

if (document.querySelector("[data-live]")) setInterval(refresh, EVERY_MILLISECONDS);

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
  });
}
