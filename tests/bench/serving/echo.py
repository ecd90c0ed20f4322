"""A server that answers at once, over HTTP and gRPC: what a load costs without any model behind it.

`python -m tests.bench.serving.echo` prints its two ports on a line and goes on until it is killed.
"""

import asyncio

import grpc

ANSWER = b'{"predictions":[0.5]}'


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request of a connection that says how long it is."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
    except asyncio.IncompleteReadError:  # The client has gone.
        writer.close()


async def _predict(request: bytes, context: object) -> bytes:
    return b""


async def _serve() -> None:
    http = await asyncio.start_server(_answer, "127.0.0.1", 0)
    methods = {"Predict": grpc.unary_unary_rpc_method_handler(_predict)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(http.sockets[0].getsockname()[1], port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
