// One picture, as large as the screen: zoom, pan, next and previous, a slideshow. PhotoSwipe moves the pictures; they are
// copies that the server made, so that RAW, HEIC and TIFF are seen too, and larger ones come when somebody zooms in.

import { clip, contentOf, original, thumbnail, views, where, words } from "./api.js";
import { Crop } from "./crop.js";
import { button, icon, make } from "./dom.js";
import { baseName } from "./gallery.js";
import { t } from "./messages.js";
import { boxOf, Overlay, surety } from "./overlay.js";
import { placeOf, Shots } from "./shots.js";
import { pictures } from "./tables.js";
import PhotoSwipe from "./vendor/photoswipe.js";

const LONG = 2.2; // a picture this many times as long as wide fills the window, to be panned along
const MISMATCH = 1.8; // where it also differs so much from the window
const SLIDE_MS = 4000;
const LARGE = 2048;
const LARGEST = 4096;
const SMALL = 800; // pixels: what is smaller is shown at twice its size
const INFO_BESIDE = 900; // pixels: narrower windows have the information below
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Viewer {
  /** `gallery` gives the pictures; `detail` fills the panel; `on` has at(n), moved(hit), closed(), index(),
   *  originals(), say(text), question(hit), part(hit, box), hitOf(part), which promises another part of a file as a hit. */
  constructor(root, gallery, detail, on) {
    Object.assign(this, { root, gallery, detail, on });
    this.pswp = null;
    this.hit = null;
    this.timer = 0;
    this.overlay = new Overlay();
    this.crop = new Crop(() => this.overlay.root.getBoundingClientRect(), {
      search: (...part) => { const { hit } = this; this.crop.end(); this.on.part(hit, part); },
      ended: () => { this.drawBar(); this.root.focus({ preventScroll: true }); },
    });
    this.shots = new Shots({
      index: () => this.on.index(), views: (hit) => views(hit, this.on.index()), play: (part) => this.showPart(part),
      drawn: (there) => {
        this.root.classList.toggle("cs-has-shots", there);
        this.pswp?.updateSize(true);
      },
    });
    this.told = make("p.cs-where-said", { role: "status", hidden: true });
    root.append(detail.root);
    detail.root.addEventListener("wheel", (event) => event.stopPropagation());
    addEventListener("fullscreenchange", () => this.pswp?.updateSize(true));
  }

  get isOpen() { return this.hit !== null; }

  /** Show a picture at place `n` of the gallery, which may have another part of the file there; or (n null) by itself. */
  open(hit, n) {
    if (this.isOpen) this.shut();
    this.alone = n === null;
    this.hit = hit;
    this.given = new Set();
    this.keepAt(n, hit);
    this.root.hidden = false;
    this.root.classList.toggle("cs-with-info", this.wantsInfo());
    const pswp = this.pswp = new PhotoSwipe({
      index: n ?? 0,
      appendToEl: this.root,
      loop: false,
      showHideAnimationType: "none",
      zoomAnimationDuration: calm.matches ? 0 : 200,
      bgOpacity: 1,
      wheelToZoom: true,
      imageClickAction: () => {},
      bgClickAction: "close",
      tapAction: "toggle-controls",
      doubleTapAction: "zoom",
      escKey: false, arrowKeys: false, trapFocus: false, returnFocus: false,
      preload: [1, 3],
      errorMsg: t("viewer.gone"),
      closeTitle: t("close"), zoomTitle: t("viewer.zoom"), arrowPrevTitle: t("viewer.previous"), arrowNextTitle: t("viewer.next"),
      getViewportSizeFn: () => ({ x: this.root.clientWidth - this.aside(), y: innerHeight - this.shots.height }),
      initialZoomLevel: (zoom) => (isLong(zoom) ? zoom.fill : zoom.fit),
      secondaryZoomLevel: (zoom) => (isLong(zoom) ? zoom.fit : Math.max(1, zoom.fit * 2)),
      maxZoomLevel: (zoom) => Math.max(2, zoom.fit * 4),
    });
    pswp.addFilter("numItems", () => (this.alone ? 1 : this.gallery.total));
    pswp.addFilter("itemData", (_, at) => this.slide(at));
    pswp.on("uiRegister", () => pswp.ui.registerElement({ name: "cs-bar", order: 8, onInit: (bar) => this.bar(bar) }));
    pswp.on("keydown", (event) => event.preventDefault()); // the page has its own keys
    pswp.on("initialZoomPan", ({ slide }) => startAt(slide));
    pswp.on("wheel", (event) => panAlong(event, pswp.currSlide));
    pswp.on("change", () => this.changed());
    pswp.on("imageSizeChange", ({ content, width }) => {
      if (content.slide === pswp.currSlide) this.overlay.fit(content);
      this.sharpen(content, width);
    });
    pswp.on("resize", () => { if (this.crop.isOn) this.crop.draw(); });
    pswp.on("loadComplete", ({ content }) => this.sharpen(content, content.displayedImageWidth));
    pswp.on("destroy", () => { if (this.pswp === pswp) this.on.closed(); });
    pswp.init();
    pswp.element.removeAttribute("role"); // the viewer around it is the dialog
    pswp.element.append(this.crop.root, this.told, this.shots.root);
    pswp.element.addEventListener("dblclick", (event) => {
      if (event.target.classList.contains("pswp__img")) pswp.currSlide?.toggleZoom({ x: event.clientX, y: event.clientY });
    });
    this.root.focus({ preventScroll: true });
  }

  /** The same picture is now at another place of a new order, or at none; `hit` is what that order says of it. */
  moveTo(n, hit) {
    const { pswp } = this;
    this.alone = n === null;
    const now = [n === null ? null : this.gallery.item(n), hit].find((one) => one?.row_id === this.hit.row_id);
    if (now) {
      this.hit = now;
      this.detail.show(now, this.on.index());
    }
    this.keepAt(n, this.hit);
    const at = n ?? 0;
    for (const index of this.given) if (index !== pswp.currIndex) pswp.contentLoader.removeByIndex(index);
    this.given = new Set([at]);
    pswp.currIndex = pswp.potentialIndex = at;
    if (pswp.currSlide) pswp.currSlide.index = pswp.currSlide.content.index = at;
    pswp.mainScroll.itemHolders.forEach((holder, i) => { if (i !== 1) pswp.setContent(holder, at - 1 + i, true); });
    pswp.dispatch("change");
  }

  /** See to it that `hit` is what is seen at a place, whatever the gallery has there. */
  keepAt(n, hit) {
    this.instead = n === null || this.gallery.item(n)?.row_id === hit.row_id ? null : { n, hit };
  }

  close() { this.pswp?.close(); }

  /** Take it off the screen and tell nobody. */
  shut() {
    const { pswp } = this;
    this.pause();
    this.dropVideo();
    this.hideWhere();
    this.crop.end();
    this.shots.show(null);
    this.wanted = null;
    this.pswp = null;
    this.hit = null;
    pswp?.destroy();
    this.detail.close();
    this.root.hidden = true;
    if (document.fullscreenElement) document.exitFullscreen();
  }

  /** What is at a place: `instead` is another part of the file that the gallery has there, or a near-duplicate of it. */
  at(n) {
    if (this.instead?.n === n) return this.instead.hit;
    return this.alone ? (n === 0 ? this.hit : undefined) : this.gallery.item(n);
  }

  /** What PhotoSwipe shows at a place; nothing yet where the picture is not known, which is asked for. */
  slide(n) {
    this.given.add(n);
    const hit = this.at(n);
    if (!hit) {
      const { pswp } = this;
      this.gallery.load(n).then((found) => { if (found && this.pswp === pswp) pswp.refreshSlideContent(n); });
      return { type: "html", html: "", width: 0, height: 0 };
    }
    const index = this.on.index();
    const size = Math.max(innerWidth, innerHeight) * devicePixelRatio > 1100 ? LARGE : 1024;
    const [width, height] = [hit.width || 1600, hit.height || 1200];
    const scale = Math.max(width, height) < SMALL ? 2 : 1;
    return {
      src: thumbnail(hit, index, size), msrc: thumbnail(hit, index, 256), alt: baseName(hit),
      width: width * scale, height: height * scale, hit,
    };
  }

  changed() {
    const { pswp, instead } = this;
    if (instead && instead.n !== pswp.currIndex) {
      this.instead = null;
      pswp.refreshSlideContent(instead.n); // which comes back here
      return;
    }
    const hit = this.at(pswp.currIndex);
    if (!this.alone) this.on.at(pswp.currIndex); // also where the picture is still asked for
    if (!hit) return;
    const isOther = hit.row_id !== this.hit?.row_id || !this.detail.hit;
    this.hit = hit;
    this.root.setAttribute("aria-label", baseName(hit));
    const { container } = pswp.currSlide;
    const isNew = isOther || this.overlay.root.parentNode !== container;
    if (isNew) {
      this.hideWhere();
      this.crop.end();
    }
    if (isOther) {
      if (this.wanted?.row_id !== hit.row_id) { // not the next shot of a video that plays
        this.wanted = null;
        this.stopVideo();
      }
      this.detail.show(hit, this.on.index());
      this.shots.show(hit);
      this.on.moved(hit); // also of another part of the file: the address names what is seen
    }
    if (isNew) this.overlay.over(pswp.currSlide, hit);
    this.drawBar();
    if (this.isPlaying) this.play();
  }

  /** A larger copy, when the one that is shown is stretched. */
  sharpen(content, width) {
    const { element, data } = content;
    if (!data.hit || data.largest || !element?.naturalWidth || content !== this.pswp?.currSlide?.content) return;
    if (width * devicePixelRatio <= element.naturalWidth * 1.15 || element.naturalWidth >= data.hit.width) return;
    data.largest = true;
    this.swap(content, thumbnail(data.hit, this.on.index(), LARGEST));
  }

  async swap(content, src) {
    const image = make("img", { src });
    try {
      await image.decode();
      content.data.src = src;
      if (content.element) content.element.src = src;
      return true;
    } catch { return false; }
  }

  /** The original file: shown in place where browsers can, else saved. */
  async showOriginal() {
    const { hit, pswp } = this;
    if (!hit || !this.on.originals()) return;
    const address = original(hit, this.on.index());
    const content = pswp.currSlide?.content;
    if (isVideo(hit)) {
      this.playVideo(address, startOf(hit));
      return;
    }
    if (!pictures.shown.includes(hit.format)) {
      make("a", { href: address, download: baseName(hit) }).click();
      return;
    }
    content.data.largest = true;
    this.on.say((await this.swap(content, address)) ? t("viewer.is_original") : t("viewer.no_original"));
  }

  /** A video from the moment that was found, over its picture; again: stops it. */
  playVideo(address, seconds) {
    if (this.stopVideo()) return;
    this.pause();
    const video = make("video.cs-video", { src: `${address}#t=${seconds}`, controls: true, autoplay: true });
    video.addEventListener("timeupdate", () => { if (this.video === video) this.follow(video); });
    video.addEventListener("error", () => {
      if (this.video === video && this.stopVideo()) this.on.say(t("viewer.no_video"));
    });
    this.put(video);
    video.focus({ preventScroll: true });
  }

  /** The clip of a motion photo over its picture, once and without sound; again: stops it. Who prefers less motion sees
   *  it at rest first, and starts it. */
  playMoment() {
    const { hit, video: shown } = this;
    if (!hit?.moment || !this.on.originals()) return;
    if (calm.matches && shown?.paused && !shown.ended) { shown.play().catch(() => {}); return; }
    if (this.stopVideo()) return;
    this.pause();
    this.hideWhere();
    this.crop.end();
    const video = make("video.cs-video.cs-moving", { src: clip(hit, this.on.index()), muted: true, playsInline: true,
      autoplay: !calm.matches, controls: calm.matches, "aria-label": t("viewer.moment") });
    video.addEventListener("ended", () => { if (this.video === video) this.stopVideo(); });
    video.addEventListener("error", () => {
      if (this.video === video && this.stopVideo()) this.on.say(t("viewer.no_video"));
    });
    if (calm.matches) for (const name of ["pointerdown", "click"]) video.addEventListener(name, (event) => event.stopPropagation()); // for its controls
    this.put(video, this.overlay.root); // exactly where its picture is, zoomed or not
  }

  put(video, over = this.pswp.element) {
    this.video = video;
    over.append(video);
    this.drawBar();
  }

  /** Keep everything with the shot that plays. */
  follow(video) {
    const part = video.seeking || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA ? null : this.shots.at(video.currentTime);
    if (part && part.row_id !== (this.wanted ?? this.hit).row_id) this.become(part);
  }

  /** Take the video away: the picture below it is then of the shot that played. Whether there was any. */
  stopVideo() {
    const { pswp } = this;
    const had = this.dropVideo();
    const shown = pswp.currSlide?.content.data.hit;
    if (had && shown && shown.row_id !== this.at(pswp.currIndex)?.row_id) pswp.refreshSlideContent(pswp.currIndex);
    return had;
  }

  dropVideo() {
    const { video } = this;
    this.video = null;
    video?.remove();
    this.drawBar();
    return Boolean(video);
  }

  /** Show another page of the document; or a shot of the video, and play from there where that is allowed. */
  showPart(part) {
    this.become(part);
    const { hit, video } = this;
    if (video) {
      video.currentTime = part.place;
      video.play();
    } else if (isVideo(hit) && this.on.originals()) this.playVideo(original(hit, this.on.index()), part.place);
  }

  /** Show another part of the file, of which the row is known. */
  become(part) { return this.becoming = this.ask(part); }

  async ask(part) {
    const { pswp } = this;
    this.wanted = part;
    let hit;
    try { hit = await this.on.hitOf(part); } catch (error) {
      if (this.pswp === pswp && this.wanted === part) this.on.say(error.message);
      return;
    }
    if (this.pswp === pswp && this.wanted === part && this.shots.has(hit)) this.showInstead(hit);
  }

  /** Show what is no place of its own: another part of this file, or a near-duplicate. */
  showInstead(hit) {
    const { pswp } = this;
    this.instead = { n: pswp.currIndex, hit };
    if (this.video) pswp.dispatch("change"); // the picture lies under it
    else pswp.refreshSlideContent(pswp.currIndex);
  }

  // ---- where, words, and a part

  /** Show where in the picture the question matches; again: hides it. */
  async toggleWhere() {
    await this.becoming; // the part that was just chosen is meant
    if (!this.isOpen) return;
    if (this.looking || this.overlay.isWhereShown) { this.hideWhere(); this.drawBar(); return; }
    const { hit } = this;
    const asked = this.on.question(hit);
    if (!asked) { this.on.say(t("where.nothing")); return; }
    this.stopVideo();
    const looking = this.looking = new AbortController();
    this.tell(t("where.looking"));
    this.drawBar();
    try {
      const found = await where({ ...asked, row_id: hit.row_id, content: contentOf(hit) }, looking.signal);
      if (this.looking !== looking) return;
      this.overlay.showWhere(found);
      this.tell(surety(found));
    } catch (error) {
      if (this.looking !== looking) return;
      this.tell("");
      this.on.say(error.message);
    } finally {
      if (this.looking === looking) this.looking = null;
      this.drawBar();
    }
  }

  hideWhere() {
    this.looking?.abort();
    this.looking = null;
    this.overlay.hideWhere();
    this.tell("");
  }

  tell(text) {
    this.told.hidden = !text;
    this.told.textContent = text;
  }

  /** Show every line of words in the picture; again: only those that were asked for. */
  async toggleWords() {
    const { hit, overlay } = this;
    if (overlay.root.querySelector(".cs-all")) { overlay.clear(".cs-all"); return; }
    try {
      const lines = await words(hit, this.on.index());
      if (this.hit !== hit) return;
      overlay.words(lines, "all");
      this.on.say(lines.length ? t("words.all", { n: lines.length }) : t("words.none"));
    } catch (error) { this.on.say(error.message); }
  }

  /** Draw a rectangle to search by; not in a moment of a video, a page, an angle, or a part of another file. */
  toggleCrop() {
    if (this.crop.isOn) { this.crop.end(); return; }
    if (!this.canCrop) { this.on.say(t("crop.none")); return; }
    this.pause();
    this.hideWhere();
    this.crop.start();
    this.drawBar();
  }

  get canCrop() { return placeOf(this.hit) === null && !this.hit.member; }

  /** Leave what is going on over the picture; whether anything was. */
  cancel() {
    const { isOn } = this.crop;
    this.crop.end();
    return isOn;
  }

  // ---- moving

  /** An arrow key: pans along a picture that is larger than the window, else goes to the next or previous one. */
  arrow(key) {
    const slide = this.pswp.currSlide;
    const way = { ArrowLeft: ["x", 1], ArrowRight: ["x", -1], ArrowUp: ["y", 1], ArrowDown: ["y", -1] }[key];
    const [axis, sign] = way;
    if (slide?.isPannable()) {
      const before = slide.pan[axis];
      slide.pan[axis] = slide.bounds.correctPan(axis, before + sign * 120);
      slide.applyCurrentZoomPan();
      if (slide.pan[axis] !== before) return;
    }
    if (axis === "x") this.step(-sign);
  }

  step(by) {
    this.pause();
    this.pswp[by > 0 ? "next" : "prev"]();
  }

  /** Go on or back by some pictures, as far as there are any. */
  jump(by) {
    this.pause();
    const { pswp } = this;
    pswp.goTo(Math.max(0, Math.min(pswp.getNumItems() - 1, pswp.currIndex + by)));
  }

  zoom(by) {
    const slide = this.pswp.currSlide;
    if (by) slide?.zoomTo(slide.currZoomLevel * by, this.pswp.getViewportCenterPoint(), calm.matches ? 0 : 200);
    else slide?.toggleZoom();
  }

  get isPlaying() { return this.timer !== 0; }

  play() {
    clearTimeout(this.timer);
    const { pswp } = this;
    this.timer = setTimeout(() => {
      const loading = pswp.currSlide?.content.isLoading();
      if (loading) this.play();
      else if (pswp.currIndex + 1 < pswp.getNumItems()) pswp.next();
      else this.pause();
    }, SLIDE_MS);
    this.drawBar();
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.drawBar();
  }

  togglePlay() { if (this.isPlaying) this.pause(); else this.play(); }

  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen?.().catch(() => {});
  }

  // ---- the bar and the panel

  bar(bar) {
    bar.classList.add("cs-viewer-bar");
    this.buttons = {
      play: button("cs-view", "play", t("viewer.slideshow"), () => this.togglePlay()),
      where: button("cs-view", "target", t("viewer.where"), () => this.toggleWhere()),
      crop: button("cs-view", "crop", t("viewer.crop"), () => this.toggleCrop()),
      moment: button("cs-view", "moment", t("viewer.moment"), () => this.playMoment()),
      original: button("cs-view", "file", t("viewer.original"), () => this.showOriginal()),
      whole: button("cs-view.cs-wide-only", "whole", t("viewer.whole"), () => this.toggleFullScreen()),
      info: button("cs-view", "info", t("viewer.info"), () => this.toggleInfo()),
    };
    bar.append(...Object.values(this.buttons));
    this.drawBar();
  }

  drawBar() {
    if (!this.buttons) return;
    const { play, where: target, crop, moment, original: file, info } = this.buttons;
    target.hidden = !this.hit || !this.on.question(this.hit);
    target.setAttribute("aria-pressed", String(this.overlay.isWhereShown));
    target.setAttribute("aria-busy", String(Boolean(this.looking)));
    crop.hidden = !this.hit || !this.canCrop;
    crop.setAttribute("aria-pressed", String(this.crop.isOn));
    play.replaceChildren(icon(this.isPlaying ? "pause" : "play"));
    play.setAttribute("aria-pressed", String(this.isPlaying));
    file.hidden = !this.on.originals();
    moment.hidden = !this.hit?.moment || !this.on.originals();
    moment.setAttribute("aria-pressed", String(Boolean(this.video)));
    info.setAttribute("aria-pressed", String(this.root.classList.contains("cs-with-info")));
  }

  aside() { return innerWidth >= INFO_BESIDE && this.root.classList.contains("cs-with-info") ? this.detail.root.offsetWidth : 0; }

  wantsInfo() {
    let kept = null;
    try { kept = localStorage.getItem("clipsearch-info"); } catch { /* not kept, then */ }
    return innerWidth >= INFO_BESIDE && kept !== "0";
  }

  toggleInfo() {
    const open = this.root.classList.toggle("cs-with-info");
    try { localStorage.setItem("clipsearch-info", open ? "1" : "0"); } catch { /* not kept, then */ }
    if (this.root.contains(document.activeElement)) this.buttons.info.focus();
    this.drawBar();
    this.pswp.updateSize(true);
  }
}

/** Whether a hit is a moment of a video, and not of an animated picture, which browsers show as a picture. */
const isVideo = ({ view, format }) => view?.startsWith("t=") && format === "VIDEO";

/** When a shot begins, in seconds; where a line that was said was found, when that was said. */
function startOf({ view, words: lines }) {
  return lines?.find((line) => typeof line.start_s === "number")?.start_s ?? Number.parseFloat(view.slice(2));
}

function isLong({ elementSize, panAreaSize }) {
  if (!elementSize || !panAreaSize) return false;
  const shape = elementSize.x / elementSize.y;
  const other = shape / (panAreaSize.x / panAreaSize.y);
  return Math.max(shape, 1 / shape) > LONG && Math.max(other, 1 / other) > MISMATCH;
}

/** A long picture is shown from its beginning; where a part of it was found, with that in the middle. */
function startAt(slide) {
  const { bounds, data, pan, panAreaSize, zoomLevels } = slide;
  if (zoomLevels.initial <= zoomLevels.fit) return;
  const part = data.hit && boxOf(data.hit);
  for (const [n, [axis, side]] of [["x", slide.width], ["y", slide.height]].entries()) {
    const middle = part && (part[n] + part[n + 2] / 2) * side * zoomLevels.initial;
    pan[axis] = part ? bounds.correctPan(axis, panAreaSize[axis] / 2 - middle) : bounds.min[axis]; // where a picture begins
  }
}

/** The wheel moves along a long picture; with Ctrl, it zooms there too. */
function panAlong(event, slide) {
  const wheel = event.originalEvent;
  if (!slide || wheel.ctrlKey || slide.zoomLevels.initial <= slide.zoomLevels.fit || !slide.isPannable()) return;
  event.preventDefault();
  const lines = wheel.deltaMode === 1 ? 18 : 1;
  const [x, y] = slide.width > slide.height ? [wheel.deltaX || wheel.deltaY, 0] : [wheel.deltaX, wheel.deltaY];
  slide.panTo(slide.pan.x - x * lines, slide.pan.y - y * lines);
}
