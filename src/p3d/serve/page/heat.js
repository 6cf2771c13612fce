// Maps of where the network looks, drawn over the video.
export class Heat {
  constructor(canvas) {
    this.canvas = canvas;
    this.found = null;
  }

  show(found) {
    this.found = found;
  }

  hide() {
    this.found = null;
    this.draw(0);
  }

  // Draw the maps of a time; nothing outside the clip.
  draw(time) {
    const { canvas, found } = this;
    const box = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(box.width));
    canvas.height = Math.max(1, Math.round(box.height));
    const context = canvas.getContext("2d");
    if (!found || time < found.start - 0.05 || time > found.end + 0.05) return;
    const part = (time - found.start) / Math.max(found.end - found.start, 1e-6);
    const step = Math.min(found.maps.length - 1, Math.max(0, Math.floor(part * found.maps.length)));
    const [left, top, width, height] = found.box;
    const picture = paint(found.maps[step]);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, left * canvas.width, top * canvas.height, width * canvas.width, height * canvas.height);
    context.strokeStyle = "rgba(255, 255, 255, 0.8)";
    context.strokeRect(left * canvas.width + 0.5, top * canvas.height + 0.5, width * canvas.width - 1, height * canvas.height - 1);
  }
}

function paint(map) {
  const picture = document.createElement("canvas");
  picture.width = map[0].length;
  picture.height = map.length;
  const pixels = new ImageData(picture.width, picture.height);
  map.flat().forEach((value, i) => {
    pixels.data.set([255, Math.round(220 * (1 - value)), 0, Math.round(190 * value)], 4 * i);
  });
  picture.getContext("2d").putImageData(pixels, 0, 0);
  return picture;
}
