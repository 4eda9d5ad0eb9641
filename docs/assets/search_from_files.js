// Search runs in a web worker, which browsers refuse to start for a page that is opened from a file.
// There, its script runs in a hidden frame. The theme asks for a class of this name.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.ready = new Promise((resolve) => frame.addEventListener("load", resolve));
      document.body.append(frame);
      this.inside = frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source === this.inside) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      const answer = "window.postMessage = (message) => parent.postMessage(message, '*')";
      this.inside.document.open();
      this.inside.document.write(
        `<script>${answer}</script><script src="${address}"></script>`,
      );
      this.inside.document.close();
    }

    async postMessage(message) {
      await this.ready;
      this.inside.dispatchEvent(new MessageEvent("message", { data: message }));
    }
  };
  window.Worker = window.IFrameWorker;
}
