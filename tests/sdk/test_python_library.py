"""The official Python SDK's own types take what the daemon says of whole sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from copilot.generated import rpc

from tests.sdk.conftest import TOKEN, Way
from tests.sdk.python_sdk import MARKS, ask, create, gathering
from tests.support.daemon_process import tcp_daemon
from tests.support.model_thread import ModelThread

pytestmark = MARKS


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Way]:
    """A daemon that runs already; on pipes the SDK would leave them open."""
    home = tmp_path / "home"
    with tcp_daemon(home, token=TOKEN) as daemon:
        yield Way("uri", home, f"localhost:{daemon.port}", TOKEN)


async def test_the_sdk_understands_every_answer(shared: Way, model: ModelThread) -> None:
    async with gathering(shared) as client:
        session = await create(client, model)
        await ask(session, "one")
        await ask(session, "two")
        mine, all_ = session.rpc, client.rpc.sessions
        assert (await mine.name.set_auto(rpc.NameSetAutoRequest(summary="Made"))).applied
        assert not (await mine.metadata.is_processing()).processing
        snapshot = await mine.metadata.snapshot()
        assert snapshot.session_id == session.session_id
        usage = await mine.usage.get_metrics()
        assert usage.total_user_requests == 2
        assert next(iter(usage.model_metrics.values())).requests.count == 2
        points = (await mine.history.list_rewind_points()).points
        assert [point.user_message for point in points] == ["one", "two"]
        fork = await all_.fork(
            rpc.SessionsForkRequest(
                session_id=session.session_id, to_event_id=points[1].event_id, name="Fork"
            )
        )
        assert fork.name == "Fork"
        cut = rpc.HistoryTruncateRequest(event_id=points[1].event_id)
        assert (await mine.history.truncate(cut)).events_removed > 0
        assert len((await mine.history.list_rewind_points()).points) == 1
        found = await all_.find_by_prefix(
            rpc.SessionsFindByPrefixRequest(prefix=fork.session_id[:20])
        )
        assert found.session_id == fork.session_id
        assert set((await all_.get_sizes()).sizes) == {session.session_id, fork.session_id}
        pruned = await all_.prune_old(
            rpc.SessionsPruneOldRequest(older_than_days=0, dry_run=True, include_named=True)
        )
        assert pruned.dry_run
        freed = await all_.bulk_delete(rpc.SessionsBulkDeleteRequest(session_ids=[fork.session_id]))
        assert list(freed.freed_bytes) == [fork.session_id]
        assert len(await client.list_sessions()) == 1
