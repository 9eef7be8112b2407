"""HEAD on every route that answers GET, without a second operation in the OpenAPI document."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Show the routes a GET where HEAD was asked; the server keeps the answer's headers and leaves out its body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self.app({**scope, "method": "GET"} if is_head else scope, receive, send)
