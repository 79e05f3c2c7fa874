"""German. Its sentences need no article and no case of a configured word, so that any noun fits into them;
{liked} and {disliked} are participles ("gekauft", "nicht gekauft")."""

from __future__ import annotations

from models.contract.prompts import Notation
from offline.data.languages.language import Language, Sentences, beginnings

_WORDS = r"(?:[\w,]+ ){0,8}?"  # a verb and its "nicht" stand far from each other
_DECLINING = (
    r"(?:Es )?[Tt]ut mir (?:\w+ )?leid",
    r"Entschuldig(?:ung|e|en Sie),? (?:bitte,? )?(?:aber |dass )?ich",
    r"(?:Leider|Bedauerlicherweise) (?:(?:kann|könnte|konnte|darf|habe|bin|weiß|kenne) ich|liegen mir)\b",
    rf"Ich (?:kann|konnte|könnte|darf|werde) {_WORDS}(?:nicht|nichts|keinen?|keine[mrs]?)\b",
    rf"Ich (?:kenne|weiß|habe) {_WORDS}(?:nicht|nichts|keinen?|keine[mrs]?)\b",
    rf"(?:Dazu|Darüber|Zu {_WORDS}\w+) (?:kann|weiß|habe) ich {_WORDS}(?:nicht|nichts|keine?)\b",
    r"Ich bin (?:\w+ ){0,3}(?:nicht in der Lage|außerstande|eine KI|ein (?:\w+ )?(?:KI-)?(?:Sprachmodell|Modell))",
    r"Als (?:eine? )?(?:\w+ )?(?:KI|künstliche Intelligenz|(?:KI-)?Sprachmodell|KI-(?:Modell|Assistent|System))[ ,]",
    rf"(?:Könn(?:ten|en) Sie|K(?:önntest|annst) du) {_WORDS}(?:mitteilen|nennen|geben|angeben|bereitstellen|sagen)\b",
    r"Bitte (?:gib|geben|nennen?|teilen?|stellen?|beschreiben?) (?:Sie )?(?:mir|mehr|weitere)",
)

# without those that are frequent in a neighbouring language too (als, an, er, es, in, man, so, um, was, wie); the
# articles are needed, since a short sentence may have nothing else, and of each a neighbour has one or two
_FUNCTION_WORDS = """
aber auch auf aus bei beim bis dabei das dass dem den der des die durch ein eine einem einen einer eines für gegen ihr
ihre ihrem ihren ihrer im ist jedoch kein keine mehr mit nach nicht nur ob oder ohne schon sehr sein seine seinem seinen
seiner sich sie sind sowie über und unter vom von vor wenn werden wird wurde wurden zu zum zur zwischen
"""

GERMAN = Language(
    code="de",
    words={
        "item": '["{title}"|ein Film ohne Titel][ ({year}; {genres})| ({year})| ({genres})]',
        "noun": "Film",
        "plural": "Filme",
        "user": "Zuschauer",
        "liked": "gut bewertet",
        "disliked": "nicht gut bewertet",
        "topics": "Genres",
        "aspects": "Themen und Handlung, Stimmung und das Publikum, dem es gefällt",
        "tastes": "welche Geschichten, Stimmungen und Figuren ihr gefallen",
    },
    notation=Notation(decimal=",", true="ja", false="nein", unknown="etwas Unbekanntes"),
    sentences=Sentences(
        item_question="Beschreibe {item} ({noun}) in zwei Sätzen: {aspects}.",
        item_text="{item}. {answer}",
        plain_text="{item}.",
        summary_question=(
            "Eine Person ({user}) hat diese {plural} {liked}: {liked_names}.\n"
            "Dieselbe Person hat diese {plural} {disliked}: {disliked_names}.\n"
            "{topics_line}"
            "Beschreibe in zwei Sätzen den Geschmack dieser Person: {tastes}."
        ),
        topics_line="Am häufigsten unter dem, was {liked} wurde ({topics}): {values}.\n",
        profile_line="Über eine Person ({user}): {values}.\n",
        previous_line="Vor einiger Zeit wurde ihr Geschmack so beschrieben: {before}\n",
        item_group_question=(
            "Von einer Art ({plural}): {names}.\n{group_topics}Beschreibe diese Art ({noun}) in zwei Sätzen: {aspects}."
        ),
        user_group_question=(
            "Mehrere Personen haben diese {plural} {liked}: {names}.\n"
            "{group_topics}"
            "Beschreibe in zwei Sätzen den Geschmack einer Person ({user}), der dasselbe gefällt: {tastes}."
        ),
        group_topics="Am häufigsten darunter ({topics}): {values}.\n",
        nothing="nichts",
        names="; ",
        taste="Mag {values}. {answer}",
        no_topics="nichts Bestimmtes",
        liked="Gefallen haben: {names}.",
        disliked="Nicht gefallen haben: {names}.",
        gap=" ",
        shift_question=(
            "Vor einiger Zeit wurde der Geschmack einer Person ({user}) so beschrieben: {before}\n"
            "Heute wird er so beschrieben: {now}\n"
            "Sage in einem Satz, wie sich der Geschmack dieser Person verändert hat."
        ),
        shift_text="Mehr {came}; weniger {went}. {answer}",
        none_came="vom Gleichen",
        none_went="von nichts",
        second_try=(
            "Antworte auf Deutsch, mit einem oder zwei kurzen, vollständigen Sätzen ohne Formatierung und ohne deine "
            "Überlegungen. Halte dich an die Angaben oben. Wiederhole weder dich noch die Frage."
        ),
    ),
    function_words=frozenset(_FUNCTION_WORDS.split()),
    refusal=beginnings(_DECLINING, after=r"[.!?]\s+"),
    has_ordinal_dots=True,
)
