"""Events reach whoever asked for them, also after a restart."""

from queue import SimpleQueue

from zrep.dispatch import Dispatcher
from zrep.events import Client, Event, Master

DEADLINE_S = 20.0


def test_a_function_hears_every_event_in_order_also_after_a_restart() -> None:
    heard: SimpleQueue[Event] = SimpleQueue()
    dispatcher = Dispatcher("events")
    dispatcher.add(heard.put)
    for gen in range(3):
        dispatcher.put(Client(gen))
        dispatcher.put(Master(gen))
        assert [heard.get(timeout=DEADLINE_S) for _ in range(2)] == [Client(gen), Master(gen)]
        dispatcher.close()


def fail(event: Event) -> None:
    raise ZeroDivisionError(event)


def test_a_function_that_fails_hurts_nobody_else() -> None:
    heard: SimpleQueue[Event] = SimpleQueue()
    dispatcher = Dispatcher("events")
    dispatcher.add(fail)
    dispatcher.add(heard.put)
    dispatcher.put(Client(1))
    assert heard.get(timeout=DEADLINE_S) == Client(1)
    dispatcher.close()


def test_a_late_subscriber_may_see_the_past() -> None:
    dispatcher = Dispatcher("events")
    dispatcher.put(Client(1))
    with dispatcher.subscribe() as new, dispatcher.subscribe(history=True) as late:
        dispatcher.put(Master(2))
        assert new.get(DEADLINE_S) == Master(2)
        assert [late.get(DEADLINE_S), late.get(DEADLINE_S)] == [Client(1), Master(2)]
