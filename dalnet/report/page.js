"use strict";
// Shows the cards of the chosen group and class; the choice is part of the address (#group=worst&class=3).
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const cards = [...gallery.querySelectorAll(".card")];
  const buttons = [...gallery.querySelectorAll("button[data-group]")];
  const select = document.getElementById("class-filter");
  const has = (list, wanted) => wanted === "all" || list.split(" ").includes(wanted);

  function show(group) {
    for (const card of cards) {
      card.hidden = !(has(card.dataset.groups, group) && has(card.dataset.classes, select.value));
    }
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.group === group));
    const count = cards.filter((card) => !card.hidden).length;
    document.getElementById("gallery-status").textContent = `${count} of ${cards.length} images`;
  }

  function choose(group) {
    show(group);
    history.replaceState(null, "", `#group=${group}&class=${select.value}`);
  }

  function readAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    select.value = wanted.get("class") ?? "all";
    if (select.selectedIndex < 0) select.value = "all";
    show(buttons.find((button) => button.dataset.group === wanted.get("group"))?.dataset.group ?? "all");
  }

  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.group));
  select.addEventListener("change", () => {
    choose(buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.group);
  });
  addEventListener("hashchange", () => location.hash.startsWith("#group") && readAddress());
  gallery.querySelector(".controls").hidden = false;
  readAddress();
})();
