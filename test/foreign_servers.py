"""Servers of other projects, as bytes: openpi's and starVLA's WebSocket, GR00T's ZeroMQ."""

import threading

import zmq
from foreign_clients import gr00t_bytes, gr00t_value, openpi_bytes, openpi_value
from websockets.sync.server import serve


class WebsocketDouble:
    """Greet, then answer each request by a function; a str answer is a frame of text."""

    def __init__(self, answer, greeting=None, key=None):
        self.seen, self.headers, self.connections = [], [], 0
        self._answer, self._greeting, self._key = answer, greeting or {}, key

    def _handle(self, connection):
        self.connections += 1
        self.headers.append(connection.request.headers.get('Authorization'))
        connection.send(openpi_bytes(self._greeting))
        for data in connection:
            self.seen.append(openpi_value(data))
            answer = self._answer(self.seen[-1])
            if answer is None:
                return
            connection.send(answer if isinstance(answer, (str, bytes)) else openpi_bytes(answer))

    def _admit(self, connection, request):
        if self._key and request.headers.get('Authorization') != f'Api-Key {self._key}':
            return connection.respond(401, 'wrong key')
        return None

    def __enter__(self):
        self._server = serve(
            self._handle, '127.0.0.1', 0, compression=None, process_request=self._admit
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()


class ZmqDouble:
    """Answer each request by a function; None: never."""

    def __init__(self, answer):
        self.seen, self._answer = [], answer

    def __enter__(self):
        self._context, self._stop = zmq.Context(), threading.Event()
        socket = self._context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        self.port = socket.bind_to_random_port('tcp://127.0.0.1')
        self._thread = threading.Thread(target=self._run, args=(socket,), daemon=True)
        self._thread.start()
        return self

    def _run(self, socket):
        while not self._stop.is_set():
            if socket.poll(20):
                self.seen.append(gr00t_value(socket.recv()))
                answer = self._answer(self.seen[-1])
                if answer is None:
                    return
                socket.send(gr00t_bytes(answer))

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._context.destroy()
