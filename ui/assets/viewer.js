// The before/after viewer. The range input lies over the pictures, so mouse, thumb and arrow keys all work,
// and a screen reader finds a slider. The frame never changes its size while a run goes on.
const frame = element.querySelector(".lr-frame");
const before = element.querySelector(".lr-before");
const after = element.querySelector(".lr-after");
const slider = element.querySelector("input");
const set = (node, url, alt) => {
  if (url) { if (node.getAttribute("src") !== url) node.src = url; } else { node.removeAttribute("src"); }
  node.alt = alt || "";
  node.hidden = !url;
};
const move = (x) => {
  slider.value = x;
  frame.style.setProperty("--x", x + "%");
  slider.setAttribute("aria-valuetext", ((props.value || {}).slide_value || "{percent} %").replace("{percent}", x));
};
let shown = "";
const update = () => {
  const v = props.value || {};
  const state = v.after ? (v.running ? "running" : "done") : v.before ? "before" : "empty";
  frame.dataset.state = state;
  set(before, v.before, v.alt_before);
  set(after, v.after, v.alt_after);
  slider.setAttribute("aria-label", v.slide || "");
  slider.disabled = state !== "done";
  element.querySelector(".lr-tag-before").textContent = v.label_before || "";
  element.querySelector(".lr-tag-after").textContent = v.label_after || "";
  element.querySelector(".lr-empty b").textContent = v.empty_title || "";
  element.querySelector(".lr-empty span").textContent = v.empty_text || "";
  if (state === "running") move(0);
  else if (state === "before") move(100);
  else if (state === "done" && shown !== v.after) move(50);
  shown = state === "done" ? v.after : "";
};
slider.addEventListener("input", () => move(slider.value));
watch("value", update);
update();
