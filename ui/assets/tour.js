// The tour's slides over the whole page. The server sends them all with each piece of news; here they are only turned,
// by the buttons, the arrow keys, or the PageUp and PageDown of a clicker. Escape ends the tour.
const root = element.closest("#lr-tour");
const dialog = element.querySelector(".lr-tour");
const find = (name) => element.querySelector(`.lr-tour-${name}`);
let run = null;    // the run that is shown
let number = 0;    // of the slide
let held = [];     // what cannot be reached meanwhile

const make = (tag, text, css) => {
  const node = document.createElement(tag);
  node.textContent = text;
  if (css) node.className = css;
  return node;
};
const picture = ([url, label]) => {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.src = url; image.alt = label;
  figure.append(image, make("figcaption", label));
  return figure;
};
const same = (node, key) => { const known = node.dataset.key === key; node.dataset.key = key; return known; };

const draw = () => {
  const { slides, words, ways } = props.value;
  const slide = slides[number];
  const pictures = slide.story ? [[slide.story, slide.headline]] : slide.pictures || [];
  dialog.setAttribute("aria-label", words.dialog);
  dialog.dataset.kind = slide.story ? "story" : "way";
  find("ways").replaceChildren(...ways.map((way, index) => {
    const item = make("li", way);
    if (index === number - 1) item.setAttribute("aria-current", "step");
    if (!slides[index + 1].waiting) item.dataset.done = "";
    return item;
  }));
  const headline = element.querySelector("h2");
  if (headline.textContent !== slide.headline) headline.textContent = slide.headline;
  if (!same(find("pictures"), JSON.stringify(pictures))) find("pictures").replaceChildren(...pictures.map(picture));
  find("figures").replaceChildren(...(slide.figures || []).map(([value, label]) => {
    const pair = document.createElement("div");
    pair.append(make("dt", label), make("dd", value));
    return pair;
  }));
  find("bar").innerHTML = slide.bar || "";  // the page's own stage bar
  find("note").textContent = slide.note || "";
  find("count").textContent = `${number + 1} / ${slides.length}`;
  find("keys").textContent = words.keys;
  for (const name of ["back", "next", "stop"]) find(name).textContent = words[name];
  find("back").disabled = number === 0;
  find("next").disabled = number === slides.length - 1;
  const save = find("save");
  save.hidden = !slide.story;
  save.textContent = words.save;
  if (slide.story) { save.href = slide.story; save.download = "latent-relay-tour.png"; }
};
const turn = (to) => {
  const last = props.value.slides.length - 1;
  number = Math.min(last, Math.max(0, to));
  draw();
};
const open = () => {
  run = props.value.run; number = 0;
  root.classList.add("lr-open");
  for (let node = root; node !== document.body; node = node.parentElement) {
    for (const other of node.parentElement.children) if (other !== node && !other.inert) { other.inert = true; held.push(other); }
  }
  draw();
  dialog.focus();
};
const close = () => {
  root.classList.remove("lr-open");
  held.forEach((other) => { other.inert = false; });
  held = [];
  root.querySelector("#lr-tour-end")?.click();  // nothing is computed for nobody
  document.querySelector("#lr-tour-start")?.focus();
};
const keys = {
  ArrowRight: () => turn(number + 1), PageDown: () => turn(number + 1),
  ArrowLeft: () => turn(number - 1), PageUp: () => turn(number - 1),
  Home: () => turn(0), End: () => turn(Infinity), Escape: close,
};
document.addEventListener("keydown", (event) => {
  if (!root.classList.contains("lr-open") || !keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
});
find("next").addEventListener("click", () => turn(number + 1));
find("back").addEventListener("click", () => turn(number - 1));
find("stop").addEventListener("click", close);
watch("value", () => {
  if (!props.value?.run) return;
  if (props.value.run !== run) open();
  else if (root.classList.contains("lr-open")) draw();
});
