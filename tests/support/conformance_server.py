"""An MCP server that has what the MCP conformance suite asks of one: every kind of content, stream and callback.

``python -m tests.support.conformance_server PORT``. The names and texts are the suite's. It takes the loopback names alone
as `Host`, against DNS rebinding, and keeps the events of its streams, so that a client that reconnects misses none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import EventMessage, EventStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.streamable_http import EventCallback

    Answer = list[Any]
    Tool = Callable[[Any, dict[str, Any]], Awaitable[Answer]]

#: The smallest that a reader takes: one pixel, and no sound.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SILENCE = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA=="
#: Between two messages of a tool that sends several, in seconds: that they come one by one is what is tested.
PAUSE = 0.05

TOOLS: dict[str, tuple[Tool, dict[str, Any]]] = {}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


def tool(name: str, schema: dict[str, Any] = NO_ARGUMENTS) -> Callable[[Tool], Tool]:
    """Enters a tool into the table."""

    def enter(function: Tool) -> Tool:
        TOOLS[name] = (function, schema)
        return function

    return enter


def one_text(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


def text(content: str) -> types.TextContent:
    return types.TextContent(type="text", text=content)


def image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PIXEL, mime_type="image/png")


def embedded(uri: str, kind: str, content: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(
        type="resource", resource=types.TextResourceContents(uri=uri, mime_type=kind, text=content)
    )


# --- tools


@tool("test_simple_text")
async def simple_text(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    return [text("This is a simple text response for testing.")]


@tool("test_image_content")
async def image_content(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    return [image()]


@tool("test_audio_content")
async def audio_content(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    return [types.AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")]


@tool("test_embedded_resource")
async def embedded_resource(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool("test_multiple_content_types")
async def several_kinds(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    resource = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), image(), resource]


@tool("test_tool_with_logging")
async def with_logging(ctx: Any, _arguments: dict[str, Any]) -> Answer:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)
        await anyio.sleep(PAUSE)
    return [text("logged")]


@tool("test_tool_with_progress")
async def with_progress(ctx: Any, _arguments: dict[str, Any]) -> Answer:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100)
        await anyio.sleep(PAUSE)
    return [text("done")]


@tool("test_error_handling")
async def error_handling(_ctx: Any, _arguments: dict[str, Any]) -> Answer:
    raise ValueError("This tool intentionally returns an error for testing")


@tool("test_sampling", one_text("prompt"))
async def sampling(ctx: Any, arguments: dict[str, Any]) -> Answer:
    asked = types.SamplingMessage(role="user", content=text(arguments["prompt"]))
    answer = await ctx.session.create_message([asked], max_tokens=100, related_request_id=ctx.request_id)
    return [text(f"LLM response: {getattr(answer.content, 'text', '')}")]


@tool("test_elicitation", one_text("message"))
async def elicitation(ctx: Any, arguments: dict[str, Any]) -> Answer:
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return await _elicit(ctx, arguments["message"], fields, ["username", "email"])


@tool("test_elicitation_sep1034_defaults")
async def elicitation_defaults(ctx: Any, _arguments: dict[str, Any]) -> Answer:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicit(ctx, "Please look at these", fields)


@tool("test_elicitation_sep1330_enums")
async def elicitation_enums(ctx: Any, _arguments: dict[str, Any]) -> Answer:
    plain = ["option1", "option2", "option3"]
    first = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)]
    choices = [{"const": f"value{n}", "title": f"{word} Choice"} for n, word in enumerate(("First", "Second"), 1)]
    fields = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": first},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": choices}},
    }
    return await _elicit(ctx, "Please choose", fields)


async def _elicit(ctx: Any, message: str, fields: dict[str, Any], required: list[str] | None = None) -> Answer:
    schema = {"type": "object", "properties": fields, "required": required or []}
    found = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return [text(f"Elicitation completed: action={found.action}, content={found.content}")]


@tool("test_reconnection")
async def reconnection(ctx: Any, _arguments: dict[str, Any]) -> Answer:
    """Ends its stream in the middle of the call; the result waits for the client to come back."""
    if ctx.close_sse_stream:
        await ctx.close_sse_stream()
    await anyio.sleep(PAUSE)
    return [text("You came back.")]


_ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}


@tool(
    "json_schema_2020_12_tool",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": _ADDRESS},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
)
async def schema_keywords(_ctx: Any, arguments: dict[str, Any]) -> Answer:
    return [text(str(arguments))]


async def list_tools(_ctx: Any, _params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[types.Tool(name=name, description=name, input_schema=schema) for name, (_, schema) in TOOLS.items()]
    )


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    try:
        content = await TOOLS[params.name][0](ctx, params.arguments or {})
    except (ValueError, KeyError) as error:
        return types.CallToolResult(content=[text(str(error))], is_error=True)
    return types.CallToolResult(content=content)


# --- resources and prompts

_STATIC_TEXT, _STATIC_BINARY, _WATCHED = "test://static-text", "test://static-binary", "test://watched-resource"


async def list_resources(_ctx: Any, _params: Any) -> types.ListResourcesResult:
    kinds = {_STATIC_TEXT: "text/plain", _STATIC_BINARY: "image/png", _WATCHED: "text/plain"}
    return types.ListResourcesResult(
        resources=[types.Resource(uri=uri, name=uri, description=uri, mime_type=kind) for uri, kind in kinds.items()]
    )


async def list_templates(_ctx: Any, _params: Any) -> types.ListResourceTemplatesResult:
    found = types.ResourceTemplate(uri_template="test://template/{id}/data", name="by id", mime_type="application/json")
    return types.ListResourceTemplatesResult(resource_templates=[found])


async def read_resource(_ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    parts = uri.removeprefix("test://template/").split("/")
    if uri == _STATIC_BINARY:
        return types.ReadResourceResult(
            contents=[types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PIXEL)]
        )
    if uri.startswith("test://template/") and len(parts) == 2:
        content = f'{{"id":"{parts[0]}","templateTest":true,"data":"Data for ID: {parts[0]}"}}'
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type="application/json", text=content)]
        )
    content = "This is the content of the static text resource."
    return types.ReadResourceResult(
        contents=[types.TextResourceContents(uri=uri, mime_type="text/plain", text=content)]
    )


async def nothing(_ctx: Any, _params: Any) -> types.EmptyResult:
    return types.EmptyResult()


async def complete(_ctx: Any, _params: Any) -> types.CompleteResult:
    return types.CompleteResult(completion=types.Completion(values=[], total=0, has_more=False))


_PROMPTS: dict[str, list[str]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
}


async def list_prompts(_ctx: Any, _params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=name,
                arguments=[types.PromptArgument(name=each, description=each, required=True) for each in arguments],
            )
            for name, arguments in _PROMPTS.items()
        ]
    )


async def get_prompt(_ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    parts: dict[str, list[Any]] = {
        "test_simple_prompt": [text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [
            text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")
        ],
        "test_prompt_with_embedded_resource": [
            embedded(given.get("resourceUri", "test://none"), "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [image(), text("Please analyze the image above.")],
    }
    messages = [types.PromptMessage(role="user", content=part) for part in parts[params.name]]
    return types.GetPromptResult(messages=messages)


# --- the streams' memory


class Events(EventStore):
    """Keeps all events of all streams; of one conversation there are few."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream = self._events[last - 1][0]
        for number, (of, message) in enumerate(self._events[last:], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def make() -> Server[Any]:
    return Server(
        name="conformance",
        version="1.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=nothing,
        on_unsubscribe_resource=nothing,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=nothing,
    )


if __name__ == "__main__":
    app = make().streamable_http_app(event_store=Events(), retry_interval=200)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
