// A recording of the microphone as WAV, which every reader of sounds knows. It stays in this tab until it is searched with.

const SECONDS = 15;

export const canRecord = () => Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

/** Begin; `stop()` ends it, and `done` is the WAV as a Blob. It ends by itself after 15 seconds. */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream), parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const done = new Promise((resolve, reject) => {
    recorder.addEventListener("stop", async () => {
      stream.getTracks().forEach((track) => track.stop());
      const context = new AudioContext();
      try {
        resolve(wav(await context.decodeAudioData(await new Blob(parts).arrayBuffer())));
      } catch (error) {
        reject(error);
      } finally {
        context.close();
      }
    });
  });
  const stop = () => recorder.state === "recording" && recorder.stop();
  setTimeout(stop, 1000 * SECONDS);
  recorder.start();
  return { stop, done };
}

/** One channel, 16 bits. */
function wav(sound) {
  const samples = sound.getChannelData(0), rate = sound.sampleRate;
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([view], { type: "audio/wav" });
}
