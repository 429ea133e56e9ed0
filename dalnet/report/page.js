"use strict";
// Shows the cards of the chosen group and class; the choice is part of the address (#group=worst&class=3).
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const cards = [...gallery.querySelectorAll(".card")];
  const buttons = [...gallery.querySelectorAll("button[data-group]")];
  const select = document.getElementById("class-filter");
  const status = document.getElementById("gallery-status");
  let group = "all";

  const has = (list, wanted) => wanted === "all" || list.split(" ").includes(wanted);

  function show() {
    let count = 0;
    for (const card of cards) {
      card.hidden = !(has(card.dataset.groups, group) && has(card.dataset.classes, select.value));
      count += !card.hidden;
    }
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.group === group));
    }
    status.textContent = `${count} of ${cards.length} images`;
  }

  function readAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("group") && !wanted.has("class")) return;
    const known = buttons.map((button) => button.dataset.group);
    group = known.includes(wanted.get("group")) ? wanted.get("group") : "all";
    const values = [...select.options].map((option) => option.value);
    select.value = values.includes(wanted.get("class")) ? wanted.get("class") : "all";
    show();
  }

  function choose() {
    show();
    history.replaceState(null, "", `#group=${group}&class=${select.value}`);
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      group = button.dataset.group;
      choose();
    });
  }
  select.addEventListener("change", choose);
  window.addEventListener("hashchange", readAddress);
  gallery.querySelector(".controls").hidden = false;
  show();
  readAddress();
})();
