"""Errors: what librdkafka reports, as errors of ours that say whether a retry helps.

Source of the codes: the Kafka protocol, "Error codes", and librdkafka's own (those that begin with an underscore).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from confluent_kafka import KafkaError, KafkaException

from fondaco.core.errors import (
    AuthenticationError,
    DeadlineExceededError,
    FondacoError,
    InputError,
    PermissionDeniedError,
    TopicNotFoundError,
    UnavailableError,
)

_MISSING = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION))
_TIMED_OUT = frozenset((KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE))
_TOO_LARGE = frozenset((KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE))
_FORBIDDEN = frozenset((KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED))
_UNKNOWN_CALLER = frozenset((KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED))
_WRONG = frozenset(
    (KafkaError._INVALID_ARG, KafkaError.INVALID_CONFIG, KafkaError.INVALID_PARTITIONS, KafkaError.INVALID_REPLICATION_FACTOR,
     KafkaError.POLICY_VIOLATION, KafkaError.TOPIC_EXCEPTION, KafkaError.UNSUPPORTED_VERSION)
)  # fmt: skip


def error_of(error: KafkaError, peer: str, what: str, seconds: float = 0.0) -> FondacoError:
    """Our error for one of Kafka's. `peer` names the brokers, `what` the topic or the call."""
    code, text = error.code(), error.str()
    if code in _MISSING:
        return TopicNotFoundError(what, where=f"the Kafka cluster at {peer}")
    if code in _TIMED_OUT:
        return DeadlineExceededError(f"Kafka at {peer}, {what}", seconds, text)
    if code in _TOO_LARGE:
        return InputError(f"{what}: a record is too large for Kafka at {peer} ({text}); raise message.max.bytes there and here")
    if code in _FORBIDDEN:
        return PermissionDeniedError("the Kafka user", text, what)
    if code in _UNKNOWN_CALLER:
        return AuthenticationError(f"Kafka at {peer} refuses us ({text})")
    if code in _WRONG:
        return InputError(f"Kafka at {peer} refuses {what}: {text}")
    return UnavailableError(f"Kafka at {peer}", f"{what}: {text}")


@contextlib.contextmanager
def kafka_errors(peer: str, what: str, seconds: float = 0.0) -> Iterator[None]:
    """Turn KafkaException into ours, the cause kept."""
    try:
        yield
    except KafkaException as exc:
        raise error_of(exc.args[0], peer, what, seconds) from exc
