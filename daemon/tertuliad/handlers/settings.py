"""Methods about a session's settings: its model, its name, its options. The caller has to be
attached."""

from __future__ import annotations

from tertulia_protocol import faults, shapes
from tertulia_protocol.config import given_providers, merged
from tertulia_protocol.methods import library as methods_library
from tertulia_protocol.methods import session as methods
from tertuliad.handlers.context import Caller, Context, on_success
from tertuliad.replies import Reply
from tertuliad.sessions.decide import Decision, settings
from tertuliad.sessions.refusals import check_given, check_name, check_supported, check_visible
from tertuliad.sessions.state import SessionState


def switch_model(ctx: Context, caller: Caller, params: methods.SessionModelSwitchToParams) -> Reply:
    model = params.model_id
    check_name(model, "$.modelId")
    if not model.strip():
        raise faults.invalid(
            "$.modelId", "the model's name is empty; models.list shows those that there are"
        )
    result = methods.SessionModelSwitchToResult(
        model_id=model, status="applied", model_state=methods.ModelState(model_id=model)
    )

    def command(state: SessionState) -> Decision:
        ctx.models.check(model, given_providers(state.config))
        return settings.switch_model(
            state, model, params.reasoning_effort, result, capabilities=params.model_capabilities
        )

    return ctx.post(caller, params.session_id, command)


def current_model(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:

    def answer(state: SessionState) -> Decision:
        config = state.config
        return Decision(
            result=methods.SessionModelGetCurrentResult(
                model_id=config.model, reasoning_effort=config.reasoning_effort
            )
        )

    return ctx.post(caller, params.session_id, answer)


def name(ctx: Context, caller: Caller, params: shapes.SessionParams) -> Reply:
    return ctx.post(
        caller,
        params.session_id,
        lambda state: Decision(result=methods.SessionNameGetResult(name=state.given_name)),
    )


def rename(ctx: Context, caller: Caller, params: methods.SessionNameSetParams) -> Reply:
    check_name(params.name)
    decision = settings.rename(params.name.strip(), None)
    return ctx.post(caller, params.session_id, lambda _: decision)


def set_auto_name(
    ctx: Context, caller: Caller, params: methods_library.SessionNameSetAutoParams
) -> Reply:
    summary = params.summary
    if not summary.strip():
        raise faults.invalid("$.summary", "the summary is empty: give a title to make the name of")
    check_visible(summary, "$.summary")

    def applied(was: bool) -> methods_library.SessionNameSetAutoResult:
        return methods_library.SessionNameSetAutoResult(applied=was)

    return ctx.post(
        caller, params.session_id, lambda state: settings.auto_name(state, summary, applied)
    )


def update_options(
    ctx: Context, caller: Caller, params: methods.SessionOptionsUpdateParams
) -> Reply:
    patch = params.patch()
    check_given(patch)
    check_supported(patch)
    result = shapes.Success(success=True)

    def command(state: SessionState) -> Decision:
        if patch.model is not None:
            ctx.models.check(patch.model, given_providers(merged(state.config, patch)))
        return settings.configure(state, patch, result)

    reply = ctx.post(caller, params.session_id, command)
    return on_success(reply, lambda: ctx.keep_providers(params.session_id, patch))
