"""English: the sentences that MovieLens' answers, vectors and spaces were made with. No letter of them may change."""

from __future__ import annotations

from offline.data.languages.language import Language, Sentences, beginnings

# first person and lower case as in a sentence: "I Can't Sleep" and "Sorry, Wrong Number" are titles
_DECLINING = (
    r"(?:I am|I'm|We are|We're) (?:\w+ )?sorry",
    r"Sorry,? (?:but )?I\b",
    r"I apologi[sz]e",
    r"Unfortunately,? (?:I\b|as an)",
    r"(?:Sorry, )?I (?:cannot|can't|can not|could not|couldn't|won't|will not)(?! (?:help but|wait|stop))",
    r"(?:I am|I'm) (?:unable|not (?:able|familiar|aware|sure))",
    r"I (?:don't|do not) have (?:\w+ ){0,3}(?:information|access|knowledge|context|details|data)",
    r"(?:Could|Can) you (?:please )?(?:provide|clarify|give|share)",
    r"Please (?:provide|clarify|share)",
    r"As an? (?:AI|artificial intelligence|(?:large )?language model)",
)

# without those that are frequent in a neighbouring language too (a, in, is, was, on, he, we, no, as, so, over)
_FUNCTION_WORDS = """
about after all also and any are be because been before both but by can could did does each for from had has have her
him his how if into it its might more must my not of one only other our she should some such than that the their them
then there these they this those through to very were what when where which while who whose with would you your
"""

ENGLISH = Language(
    code="en",
    words={},  # the defaults of TextsConfig
    sentences=Sentences(
        item_question="Describe the {noun} {item} in two sentences: {aspects}.",
        item_text="{item}. {answer}",
        plain_text="{item}.",
        summary_question=(
            "A {user} {liked} these {plural}: {liked_names}.\n"
            "The {user} {disliked}: {disliked_names}.\n"
            "{topics_line}"
            "In two sentences, describe the taste of this {user}: {tastes}."
        ),
        topics_line="Most frequent {topics} among the {liked} ones: {values}.\n",
        profile_line="About a {user}: {values}.\n",
        previous_line="Some time ago, the {user}'s taste was described like this: {before}\n",
        item_group_question=(
            "These {plural} are of one kind: {names}.\n"
            "{group_topics}"
            "In two sentences, describe a {noun} of this kind: {aspects}."
        ),
        user_group_question=(
            "Several people liked these {plural}: {names}.\n"
            "{group_topics}"
            "In two sentences, describe the taste of a {user} who likes the same: {tastes}."
        ),
        group_topics="Most frequent {topics} among them: {values}.\n",
        nothing="none",
        names="; ",
        taste="Likes {values}. {answer}",
        no_topics="nothing in particular",
        liked="Liked: {names}.",
        disliked="Disliked: {names}.",
        gap=" ",
        shift_question=(
            "Some time ago, a {user}'s taste was described like this: {before}\n"
            "Today it is described like this: {now}\n"
            "In one sentence, say how the taste of this {user} has changed."
        ),
        shift_text="More {came}; less {went}. {answer}",
        none_came="of the same",
        none_went="of nothing",
        second_try=(
            "Answer in the language of this question, with one or two short, complete sentences of plain text and "
            "without your reasoning. Go by the facts given above. Do not repeat yourself or the question."
        ),
    ),
    function_words=frozenset(_FUNCTION_WORDS.split()),
    refusal=beginnings(_DECLINING, after=r"[.!?]\s+", end=r"\b"),
)
