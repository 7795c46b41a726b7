// What Gradio's own widgets leave out: their words in the visitor's language, lists of choices that the arrow keys walk
// through, and pictures that only repeat the word beside them. `words`: by language, then by Gradio's English, in which
// {…} is a gap.
(words) => {
  const language = (navigator.languages || [navigator.language]).map((l) => l.slice(0, 2)).find((l) => words[l]) || "en";
  const plain = new Map(), patterns = [];
  for (const [theirs, ours] of Object.entries(words[language])) {
    if (!theirs.includes("{")) { plain.set(theirs, ours); continue; }
    const gaps = [];
    const fixed = theirs.split(/\{(\w+)\}/).map((part, index) => {
      if (index % 2) { gaps.push(part); return "(.+)"; }
      return part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    });
    patterns.push([new RegExp(`^${fixed.join("")}$`), gaps, ours]);
  }
  const translated = (text) => {
    if (plain.has(text)) return plain.get(text);
    for (const [pattern, gaps, ours] of patterns) {
      const found = pattern.exec(text);
      if (found) return ours.replace(/\{(\w+)\}/g, (_, name) => found[1 + gaps.indexOf(name)]);
    }
    return text;
  };
  const set = (node, name, text) => { if (node.getAttribute(name) !== text) node.setAttribute(name, text); };

  const mend = (node) => {
    for (const name of ["aria-label", "title"]) if (node.hasAttribute(name)) set(node, name, translated(node.getAttribute(name)));
    if (node.matches("img.button-icon, footer img")) set(node, "alt", "");
    if (node.matches(".empty[aria-label]")) set(node, "role", "img");  // a plot without data: only a role may have a name
    if (node.matches("label > input[type=checkbox][title]")) set(node, "title", node.parentElement.textContent.trim());
    if (node.matches("label > input[type=radio]")) {
      // Gradio names each option of a list apart, and anew at each choice, so that they are no group: each is a stop of
      // its own for the Tab key, and the arrow keys do nothing.
      const [first, ...rest] = node.parentElement.parentElement.querySelectorAll("input[type=radio]");
      for (const other of rest) set(other, "name", first.name);
    }
    // A link that the page would leave for, did its answer not turn out to be a file: Gradio hangs up beforehand.
    if (node.matches("a#lr-save-story")) set(node, "download", "");
    if (node.matches(".toast-title")) {
      const text = translated(node.textContent.trim());
      if (node.textContent.trim() !== text) node.textContent = text;
    }
  };
  const WATCHED = "[aria-label], [title], img, input[type=radio], .toast-title, a#lr-save-story";
  const mend_all = (root) => { if (root.matches(WATCHED)) mend(root); root.querySelectorAll(WATCHED).forEach(mend); };
  new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "attributes") mend(target);
      for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) mend_all(node);
    }
  }).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label", "title", "alt", "name"] });
  mend_all(document.body);
}
