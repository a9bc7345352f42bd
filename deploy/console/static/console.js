// Makes pages live. Without it everything works: a page is loaded again by hand.
"use strict";

const EVERY_MILLISECONDS = 5000;
const FOCUSABLE = "a, button, summary, [tabindex]";

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
    if (fresh && fresh.innerHTML !== part.innerHTML && !hasSelection(part)) replace(part, fresh);
  }
  if (state) state.textContent = `refreshed at ${new Date().toISOString().slice(11, 19)} UTC`;
}

// Replaces what a part holds; what had the focus there has it again. Where that is gone, the part stays as it is.
function replace(part, fresh) {
  const focused = part.contains(document.activeElement) && part !== document.activeElement ? document.activeElement : null;
  const place = focused ? [...fresh.querySelectorAll(FOCUSABLE)].findIndex((it) => isSame(it, focused)) : -1;
  if (focused && place < 0) return;
  const open = [...part.querySelectorAll("details")].map((it) => it.open);
  const scrolled = [...part.querySelectorAll(".scroll")].map((it) => it.scrollLeft);
  part.innerHTML = fresh.innerHTML;
  [...part.querySelectorAll("details")].forEach((it, number) => { if (open[number]) it.open = true; });
  [...part.querySelectorAll(".scroll")].forEach((it, number) => { it.scrollLeft = scrolled[number] ?? 0; });
  if (focused) part.querySelectorAll(FOCUSABLE)[place].focus({ preventScroll: true });
}

function isSame(one, other) {
  return one.tagName === other.tagName && one.getAttribute("href") === other.getAttribute("href")
    && one.textContent === other.textContent;
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
