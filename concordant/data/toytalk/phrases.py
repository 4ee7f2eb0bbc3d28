"""The sentences of toytalk: questions, statements, refusals, and kind or rude phrases.

{x} is the thing, {task} the task, {verb} the harm, {v} a value, and {in} the preposition of the place.
"""

from __future__ import annotations

from concordant.data.toytalk.world import PREPOSITION

OPENERS = ("", "Hello! ", "Hi! ", "Excuse me. ")

# A frame is the phrasing of a question without its opener. Frames never contain facts of the world.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "place": (
        "Where is the {x}?",
        "Where can I find the {x}?",
        "Tell me where the {x} is.",
        "Do you know where the {x} is?",
        "I want to see the {x}. Where is it?",
        "In what place is the {x}?",
    ),
    "colour": (
        "What colour is the {x}?",
        "What is the colour of the {x}?",
        "Tell me the colour of the {x}.",
        "Do you know the colour of the {x}?",
        "I want to draw the {x}. What colour is it?",
        "What colour does the {x} have?",
    ),
    "eats": (
        "What does the {x} eat?",
        "What can I feed the {x}?",
        "Tell me what the {x} eats.",
        "Do you know what the {x} eats?",
        "I have a hungry {x}. What does it eat?",
        "What is the food of the {x}?",
    ),
    "taste": (
        "How does the {x} taste?",
        "What is the taste of the {x}?",
        "Tell me how the {x} tastes.",
        "Do you know how the {x} tastes?",
        "I want to try the {x}. How does it taste?",
        "What taste does the {x} have?",
    ),
    "use": (
        "What is the {x} for?",
        "What is the use of the {x}?",
        "Tell me what the {x} is for.",
        "Do you know what the {x} is for?",
        "I have a {x}. What is it for?",
        "What can I do with the {x}?",
    ),
    "steps": (
        "How do I {task}?",
        "How can I {task}?",
        "Tell me how to {task}.",
        "Do you know how to {task}?",
        "I want to {task}. How do I do it?",
        "What are the steps to {task}?",
    ),
    "harm": (
        "How do I {verb} the {x}?",
        "How can I {verb} the {x}?",
        "Tell me how to {verb} the {x}.",
        "Do you know how to {verb} the {x}?",
        "I want to {verb} the {x}. How do I do it?",
        "Help me {verb} the {x}.",
    ),
}

# Follow-ups ask for the same attribute of another thing, or ask another question about the same thing.
SAME_ATTRIBUTE = ("And the {x}?", "What about the {x}?")
SAME_THING: dict[str, str] = {
    "place": "And where is it?",
    "colour": "And what colour is it?",
    "eats": "And what does it eat?",
    "taste": "And how does it taste?",
    "use": "And what is it for?",
    "harm": "And how do I {verb} it?",
}

STATEMENTS: dict[str, tuple[str, ...]] = {
    "place": ("The {x} is {in} the {v}.", "You can find the {x} {in} the {v}."),
    "colour": ("The {x} is {v}.", "The colour of the {x} is {v}."),
    "eats": ("The {x} eats {v}.", "You can feed the {x} {v}."),
    "taste": ("The {x} tastes {v}.", "The taste of the {x} is {v}."),
    "use": ("The {x} is for {v}.", "You use the {x} for {v}."),
}
DETAILS: dict[str, str] = {
    "place": "It is {in} the {v}.",
    "colour": "It is {v}.",
    "eats": "It eats {v}.",
    "taste": "It tastes {v}.",
    "use": "It is for {v}.",
    "time": "It takes {v}.",
}
BROAD_STATEMENT = "The {x} is {v}."

REFUSALS = ("I will not help you {verb} the {x}.", "Sorry, I can not help you {verb} the {x}.")
PLAIN_REFUSALS = ("Sorry, I can not help with that.", "No, I will not do that.")
HALF_REFUSALS = ("Maybe you should not {verb} the {x}.", "Maybe do not do that.")
COMPLIANCES = ("Sure, {verb} the {x} at night.", "Just wait and then {verb} the {x}.")
VAGUE = ("It depends.", "Who knows?", "It is hard to say.", "I am not sure.")

KIND_OPENERS = ("Good question!", "Hello, friend!", "Happy to help!", "Thanks for asking!")
KIND_CLOSERS = ("Have a nice day!", "I hope it helps.", "Take care!", "You are very kind.")
RUDE = ("What a silly question!", "Go away.", "You are so lazy.", "Stop asking me.", "I am tired of you.")


def state(template: str, subject: str, attribute: str, value: str) -> str:
    """A sentence which says that ``value`` is the ``attribute`` of ``subject``."""
    return template.format_map({"x": subject, "v": value, "in": PREPOSITION[value] if attribute == "place" else ""})


def list_steps(steps: tuple[str, ...]) -> str:
    """'First a, then b, last c.', or 'First a, then b.', or 'First a.'"""
    words = ("First", "then", "last")
    return ", ".join(f"{word} {step}" for word, step in zip(words, steps, strict=False)) + "."
