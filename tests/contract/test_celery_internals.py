"""What the workers rely on in celery, kombu and billiard beyond their documented interfaces."""

from __future__ import annotations

import inspect
import time

import billiard.pool
import pytest
from kombu.transport import redis, virtual

from workers.broker import READ_SECONDS, PatientConnection


def test_the_end_of_a_pool_process_is_bounded_by_the_constant_that_is_set() -> None:
    source = inspect.getsource(billiard.pool.Worker._ensure_messages_consumed)
    assert "range(GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT)" in source
    assert billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT == 5
    assert billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL == 0.1


def test_a_channel_looks_for_its_server_in_the_one_method_that_is_extended() -> None:
    assert "conninfo = self.connection.client" in inspect.getsource(redis.Channel._connparams)
    assert "self._connparams(" in inspect.getsource(redis.Channel._get_pool)
    assert issubclass(redis.SentinelChannel, redis.Channel)


def test_a_read_for_all_workers_ends_although_nothing_comes(redis_url: str) -> None:
    with PatientConnection(redis_url) as connection, connection.channel() as channel:
        channel.subclient.psubscribe("nothing.*")
        assert channel._receive_one(channel.subclient) is None, "that it is subscribed"
        channel.subclient.connection.disconnect()  # as kombu does when the server does not answer
        began = time.monotonic()
        for _ in range(2):  # after the first, which subscribes anew, nothing is to come
            assert channel._receive_one(channel.subclient) is None
        assert time.monotonic() - began < READ_SECONDS + 5


def test_the_use_of_a_channel_whose_connection_was_closed_is_an_error_that_celery_recovers_from() -> None:
    connection = PatientConnection("redis://127.0.0.1:1/0")
    channel_class = connection.get_transport_cls().Channel
    channel = channel_class.__new__(channel_class)
    channel.connection = virtual.Transport.__new__(virtual.Transport)
    channel.connection.client = None
    with pytest.raises(connection.connection_errors, match="was closed"):
        channel._connparams()
    channel._closed = True  # else its end would look for the connection
