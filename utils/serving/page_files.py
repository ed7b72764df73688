"""The files of the page, and what its browser may load."""

import os

TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml'}
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page')
SHARED = {name: name for name in (  # of the server's page and of the static one: address -> file of FOLDER
    'index.html', 'icon.svg', 'style.css', 'page.js', 'picture.js', 'png.js', 'legend.js', 'pointer.js', 'camera.js')}
FILES = {**SHARED, 'engine.js': 'engine-server.js'}
STATIC_FILES = {**SHARED, 'engine.js': 'engine-onnx.js', 'worker.js': 'worker.js'}

_POLICY = ("default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'self'; connect-src 'self'; "
           "img-src 'self' blob: data:; media-src 'self' blob:; ")
SERVER_POLICY = _POLICY + "script-src 'self'; frame-ancestors 'none'"
# onnxruntime-web compiles WebAssembly, and starts threads from a blob where there are several.
STATIC_POLICY = _POLICY + "script-src 'self' blob: 'wasm-unsafe-eval'; worker-src 'self' blob:"
