"""The contract between policies and pipelines, and the parts that all policies share.

An author of a policy imports from here (see docs/custom-policies.md); the rest serves the policies of this library.

The contract:

    policy             a policy: its facts, its copies, what a pipeline calls; and the Wrap, which runs calls
    gate               the Gate, which decides before a call and learns after it
    facts              the facts that a policy states about itself: for lint, explain, and the code that binds it
    context            the context that policies share: the pipeline's name, classifier, channel of events, mode
    layer              a policy bound to the layer inside it
    call               one guarded call: its function, its runtime, its attempt, its deadline

What outcomes mean:

    classify           the classifier of a pipeline
    verdict            the meaning of one outcome for the policies
    known_errors       the meaning of the errors of well-known clients
    result             facts about a result, found from its type
    lifecycle          results that go on after they were returned
    callbacks          errors of the user's own predicates, keys and hooks
    pushback           the pause that a server asks for

What calls carry:

    current_call       facts about the current call, for a guarded function
    call_options       options that a call itself asks for
    call_key           the key of a call, for errors
    deadline           the time by which everything inside has to end
    priority           which calls go first when there is not room for all
    headers            the headers that carry deadline, priority and attempt to a server
    budget             the tokens that pay for further requests
    history            what a call did that has not succeeded at once
    background         calls that run in the background of their caller
    emit               the events of attempts and calls
    endings            counts of calls and attempts by how they ended
    surround           code around attempts and calls, for spans

Gates together:

    gate_group         neighbouring gates: admitted by all, or by none
    wait_queue         the queue of a gate
    deadlocks          waits in a queue that nothing could end
    shadow             a gate that decides and counts, and refuses nothing
    shadow_queue       the queue of such a gate, simulated

What explain asks:

    worst_case         the worst case of a call through a pipeline
    levels             each policy around the rest of its pipeline
    stop               when repeated runs end
"""

from resilient.core.call import Call
from resilient.core.callbacks import ask_about_call
from resilient.core.context import PipelineContext
from resilient.core.facts import Facts
from resilient.core.gate import Gate, Ticket
from resilient.core.layer import Layer
from resilient.core.policy import Policy, Wrap

__all__ = ["Call", "Facts", "Gate", "Layer", "PipelineContext", "Policy", "Ticket", "Wrap", "ask_about_call"]
