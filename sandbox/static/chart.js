// Keeps the table of charges up to date while the app is open beside it.
"use strict";
const charges = document.getElementById("charges");
async function refresh() {
  const answer = await fetch(charges.dataset.source);
  if (!answer.ok) return;
  const text = await answer.text();
  if (text !== refresh.last) {
    refresh.last = text;
    charges.innerHTML = text;
  }
}
document.getElementById("refresh").addEventListener("click", (event) => {
  event.preventDefault();
  refresh();
});
if (document.querySelector("iframe")) setInterval(refresh, 2000);
