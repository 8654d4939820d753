"""Replies of the offline model: on topic, the same each time, and open about their origin."""

import re
from collections.abc import Sequence
from zlib import crc32

from streamserve.models.offline.question import Question, words_of

NOTICE = (
    "(I am StreamServe's offline model. For a real one, set OPENAI_API_KEY, or OPENAI_BASE_URL, "
    "or STREAMSERVE_MODEL=gguf:PATH.)"
)
# A reply quotes this many characters of a tool's result at most, because a tool may return whole documents.
RESULT_LENGTH = 600
JOKES = (
    "Why did {subject} never wait for the whole answer? Because the first token was already funny.",
    "What do {subject} and a good stream have in common? Neither stops before the punchline.",
    "I asked for {subject} in one piece. It came word by word, and the last one was the punchline.",
)
# Scenes and their choices. The words before `{subject}` are unique, so that a reply recognises scenes already told.
STORY = {
    "The lantern flickers. Ahead of you lies {subject}, and behind it a door is left ajar.": (
        "1. Follow the light.\n2. Knock on the door.\n3. Wait and listen."
    ),
    "Rain drums on the roof while you think of {subject}. Then, quite clearly, somebody knocks twice.": (
        "1. Open at once.\n2. Ask who is there.\n3. Slip out of the window."
    ),
    "The map is torn where {subject} should be. A fox looks at you, then at the path, and waits.": (
        "1. Follow the fox.\n2. Mend the map.\n3. Climb the hill."
    ),
}
ENDING = "Morning comes. You tell of {subject} to everybody who asks, and a little more each time. The end."


def reply(question: Question) -> str:
    """Return the answer to a question, with the notice at its end."""
    return f"{_spoken(question)}\n\n{NOTICE}"


def _spoken(question: Question) -> str:
    words = words_of(question.text)
    if question.results:
        return "\n".join(f"The tool {name} says: {result[:RESULT_LENGTH]}" for name, result in question.results)
    if question.passages:
        mark, passage = max(question.passages, key=lambda found: len(words_of(found[1]) & words))
        first_sentence = re.split(r"(?<=[.!?])\s", passage.split("\n", maxsplit=1)[-1].strip(), maxsplit=1)[0]
        return f"On “{question.text}” the sources say: {first_sentence} {mark}"
    if "joke" in words:
        return _pick(JOKES, question).format(subject=question.subject)
    if "story" in words | words_of(question.background):
        return _story(question)
    return (
        f"You wrote: “{question.text}”. I cannot think about it, but I can show how an answer streams: "
        "every word of this one reached you as soon as it was ready."
    )


def _story(question: Question) -> str:
    if re.search("last scene|end the story", question.full):
        return ENDING.format(subject=question.subject)
    untold = [scene for scene in STORY if scene.split("{subject}")[0] not in question.full]
    scene = _pick(untold or list(STORY), question)
    choices = f"\n\nWhat do you do?\n{STORY[scene]}" if "choices" in question.full else ""
    return scene.format(subject=question.subject) + choices


def _pick(options: Sequence[str], question: Question) -> str:
    return options[crc32(question.full.encode()) % len(options)]
