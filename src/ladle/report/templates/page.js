"use strict";

// The theme follows the system until the button is pressed. Colours are CSS variables, in drawings
// too, so nothing is drawn anew.
const root = document.documentElement;
const button = document.getElementById("theme");
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
}

function nameTheOther() {
  const other = isDark() ? "light" : "dark";
  button.textContent = other === "dark" ? "Dark" : "Light";
  button.setAttribute("aria-label", `Show the page in ${other} colours`);
}

button.hidden = false;
nameTheOther();
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheOther();
});
prefersDark.addEventListener("change", nameTheOther);

// Room for the labels of the other axis.
const MARGIN = 70;

function heightOf(figure, place) {
  return Math.round(Number(figure.dataset.ratio) * Math.max(place.clientWidth - MARGIN, 120));
}

async function draw(figure) {
  const place = figure.querySelector(".chart");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const keepsRatio = "ratio" in figure.dataset;
  if (keepsRatio) spec.height = heightOf(figure, place);
  // With `ast`, expressions are interpreted: the page's policy forbids to make functions of text.
  const { view } = await vegaEmbed(place, spec, { actions: false, ast: true, renderer: "svg" });
  if (keepsRatio) {
    window.addEventListener("resize", () => view.height(heightOf(figure, place)).runAsync());
  }
  figure.dataset.drawn = "";
}

(async () => {
  for (const figure of document.querySelectorAll("figure.plot")) {
    // One after the other, so that a phone may scroll meanwhile.
    await draw(figure);
  }
  root.dataset.drawn = "";
})();
