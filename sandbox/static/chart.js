// Shows what the app says of the patient, and keeps the table of charges up to date while it is open beside it.
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
const cards = document.getElementById("cards");
if (cards) {
  fetch(cards.dataset.source).then(async (answer) => {
    if (answer.ok) cards.innerHTML = await answer.text();
  }).catch(() => {});
}
