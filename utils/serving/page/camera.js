// A photo from the camera: in a dialog, or by the system where pages may not see the camera (plain HTTP, old browsers).

// Asks for a photo. `capture` is a file input for the system's camera. Returns a Blob; null if there is none.
export async function takePhoto(dialog, video, shoot, cancel, capture) {
  if (!navigator.mediaDevices?.getUserMedia) {
    capture.click();  // its own event brings the photo
    return null;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment', width: {ideal: 1920}}});
  } catch (error) {
    throw new Error(error.name === 'NotAllowedError'
      ? 'The camera may not be used. Allow it in the browser, or choose a file.'
      : 'No camera was found. Choose a file instead.');
  }
  video.srcObject = stream;
  shoot.disabled = true;  // until there is something to be seen
  const chosen = new Promise((resolve) => {
    shoot.onclick = () => resolve(true);
    cancel.onclick = dialog.oncancel = () => resolve(false);
  });
  dialog.showModal();
  try {
    const started = video.play().then(() => {
      shoot.disabled = false;
      shoot.focus();
      return chosen;
    });
    return await Promise.race([chosen, started]) ? await frame(video) : null;  // one may cancel before it has started
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    dialog.close();
  }
}

function frame(video) {
  const canvas = Object.assign(document.createElement('canvas'), {width: video.videoWidth, height: video.videoHeight});
  canvas.getContext('2d').drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
}
