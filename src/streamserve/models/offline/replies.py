"""What the offline model says: pleasant, on topic, the same each time, and open about what it is."""

import re
from collections.abc import Sequence
from zlib import crc32

from streamserve.models.offline.question import Question, words_of

NOTICE = (
    "(I am StreamServe's offline model. For a real one, set OPENAI_API_KEY, or OPENAI_BASE_URL, "
    "or STREAMSERVE_MODEL=gguf:PATH.)"
)
# A tool may return whole documents; the reader has the tool's message for the rest.
RESULT_LENGTH = 600
JOKES = (
    "Why did {subject} never wait for the whole answer? Because the first token was already funny.",
    "What do {subject} and a good stream have in common? Neither stops before the punchline.",
    "I asked for {subject} in one piece. It came word by word, and the last one was the punchline.",
)
# Each scene begins with words of its own, by which `choices` knows it again.
STORY = {
    "The lantern flickers. Ahead of you lies {subject}, and behind it a door is left ajar.": (
        "Follow the light.",
        "Knock on the door.",
        "Wait and listen.",
    ),
    "Rain drums on the roof while you think of {subject}. Then, quite clearly, somebody knocks twice.": (
        "Open at once.",
        "Ask who is there.",
        "Slip out of the window.",
    ),
    "The map is torn where {subject} should be. A fox looks at you, then at the path, and waits.": (
        "Follow the fox.",
        "Mend the map.",
        "Climb the hill.",
    ),
}
ENDING = "Morning comes. You tell of {subject} to everybody who asks, and a little more each time. The end."
_LAST_SCENE = re.compile(r"\b(?:last scene|end the story|ending)\b", re.I)
_WANTS_CHOICES = re.compile(r"\b(?:choices?|options?)\b", re.I)


def reply(question: Question) -> str:
    """The whole answer to a question, with the notice at its end."""
    return f"{spoken(question)}\n\n{NOTICE}"


def spoken(question: Question) -> str:
    """The answer without the notice."""
    if question.results:
        return _report(question.results)
    if question.passages:
        return _cite(question)
    if question.kind == "joke":
        return _rotated(JOKES, question)[0].format(subject=question.subject)
    if question.kind == "story":
        return _story(question)
    return (
        f"You wrote: “{question.text}”. I cannot think about it, but I can show how an answer streams: "
        "every word of this one reached you as soon as it was ready."
    )


def scene(question: Question) -> str:
    """The next scene of a story: none that was told already, and an ending when one is asked for."""
    template = ENDING if _LAST_SCENE.search(question.full) else _next_scene(question)
    return template.format(subject=question.subject)


def choices(question: Question) -> tuple[str, ...]:
    """What the reader may do: in the last scene that the question quotes, else in the next one."""
    last = max(STORY, key=lambda template: _place_of(template, question))
    return STORY[last if _place_of(last, question) >= 0 else _next_scene(question)]


def _story(question: Question) -> str:
    told = scene(question)
    if _LAST_SCENE.search(question.full) or not _WANTS_CHOICES.search(question.full):
        return told
    offered = enumerate(STORY[_next_scene(question)], start=1)
    return "\n".join([told, "", "What do you do?", *(f"{number}. {choice}" for number, choice in offered)])


def _next_scene(question: Question) -> str:
    scenes = _rotated(tuple(STORY), question)
    return next((template for template in scenes if _place_of(template, question) < 0), scenes[0])


def _place_of(template: str, question: Question) -> int:
    return question.full.rfind(template.split("{subject}")[0].strip())


def _report(results: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"The tool {name} says: {_cut(result)}" for name, result in results)


def _cut(text: str) -> str:
    return text if len(text) <= RESULT_LENGTH else f"{text[:RESULT_LENGTH]} ..."


def _cite(question: Question) -> str:
    mark, passage = max(question.passages, key=lambda found: len(words_of(found[1]) & question.words))
    body = passage.split("\n", maxsplit=1)[-1]
    first_sentence = re.split(r"(?<=[.!?])\s", body.strip(), maxsplit=1)[0]
    return f"On “{question.text}” the sources say: {first_sentence} {mark}"


def _rotated(options: Sequence[str], question: Question) -> Sequence[str]:
    start = crc32(question.full.encode()) % len(options)
    return [*options[start:], *options[:start]]
