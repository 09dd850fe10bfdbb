// Gradio's document is ready long after this page is. When its layout is there, the page moves into it as it is.

export function moveInto(root, id) {
  if (!document.querySelector("gradio-app")) return;
  const move = () => {
    const frame = document.getElementById(id);
    if (!frame) return false;
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    const marked = typeof focused?.selectionStart === "number" ? [focused.selectionStart, focused.selectionEnd] : null;
    const [x, y] = [scrollX, scrollY];
    frame.append(root); // takes the focus away
    focused?.focus({ preventScroll: true });
    if (marked) focused.setSelectionRange(...marked);
    scrollTo(x, y);
    return true;
  };
  if (move()) return;
  const watch = new MutationObserver(() => { if (move()) watch.disconnect(); });
  watch.observe(document.body, { childList: true, subtree: true });
}
