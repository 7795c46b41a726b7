// A sketch pad of eight colours. Gradio's own editor hides its colours two clicks deep and weighs a WebGL library.
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const language = (navigator.languages || [navigator.language]).map((l) => l.slice(0, 2)).find((l) => props.words[l]) || "en";
const words = props.words[language];
const size = element.querySelector(".lr-pad-size");
const past = [];
let colour = "";
let last = null;

const wipe = () => { pen.fillStyle = "#ffffff"; pen.fillRect(0, 0, canvas.width, canvas.height); };
const remember = () => { past.push(pen.getImageData(0, 0, canvas.width, canvas.height)); if (past.length > 20) past.shift(); };
const hand_over = () => { props.value = canvas.toDataURL("image/png"); };
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
};
const line = (from, to) => {
  pen.strokeStyle = colour; pen.lineWidth = Number(size.value); pen.lineCap = pen.lineJoin = "round";
  pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
};

element.querySelectorAll(".lr-swatch").forEach((swatch) => {
  swatch.setAttribute("aria-label", words[swatch.dataset.name]);
  swatch.title = words[swatch.dataset.name];
  swatch.addEventListener("click", () => {
    element.querySelectorAll(".lr-swatch").forEach((other) => other.setAttribute("aria-pressed", String(other === swatch)));
    colour = swatch.dataset.colour;
  });
});
element.querySelector(".lr-swatch").click();
element.querySelector(".lr-pad-size-word").textContent = words.size;
canvas.setAttribute("aria-label", words.pad);
for (const [name, act] of [["undo", () => { if (past.length) pen.putImageData(past.pop(), 0, 0); }],
                           ["fill", () => { remember(); pen.fillStyle = colour; pen.fillRect(0, 0, canvas.width, canvas.height); }],
                           ["clear", () => { remember(); wipe(); }]]) {
  const button = element.querySelector(`.lr-pad-${name}`);
  button.textContent = words[name];
  button.addEventListener("click", () => { act(); hand_over(); });
}
canvas.addEventListener("pointerdown", (event) => {
  event.preventDefault(); canvas.setPointerCapture(event.pointerId); remember(); last = at(event); line(last, last);
});
canvas.addEventListener("pointermove", (event) => { if (last) { const now = at(event); line(last, now); last = now; } });
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (last) { last = null; hand_over(); } });
wipe();
