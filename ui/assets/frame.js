// Gradio's document is ready long after this page is. When its layout is there, the page moves into it as it is.

export function moveInto(root, id) {
  if (!document.querySelector("gradio-app")) return;
  const move = () => {
    const frame = document.getElementById(id);
    if (!frame) return false;
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    const [x, y] = [scrollX, scrollY];
    if (frame.moveBefore) frame.moveBefore(root, null); // loses nothing
    else {
      frame.append(root);
      focused?.focus({ preventScroll: true });
    }
    scrollTo(x, y);
    return true;
  };
  if (move()) return;
  const watch = new MutationObserver(() => { if (move()) watch.disconnect(); });
  watch.observe(document.body, { childList: true, subtree: true });
}
