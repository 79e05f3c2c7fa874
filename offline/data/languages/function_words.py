"""Function words of languages that have no sentences of their own: by them an answer, or a catalogue, is told from
English. Words that are English as well, or as frequent in English names, are left out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_WORDS = {
    "es": """
        al ante aunque como con cual cuando cuya del desde donde durante el ella ellos en entre era es esa ese esta este
        esto fue hacia hasta hay la las lo los mas más muy nada ni nos otra otro para pero por porque que qué quien se
        según ser si sin sobre son su sus también tan tiene todo todos tras un una unas unos y ya
    """,
    "fr": """
        à ainsi au aussi autre aux avec ce ces cet cette chez comme dans de depuis des deux dont du elle elles en entre
        est et été être il ils je la le les leur leurs lui mais même ne ni nos notre nous où par pas peu plus pour qu
        quand que qui sa sans se ses si son sont sous sur ta tous tout toute très un une vers vos votre vous y
        c' d' l' n' qu' s'
    """,
    "it": """
        agli ai alla alle allo anche che chi ci come con cui da dagli dai dal dalla dei degli del della delle dello di
        dove e è ed era gli ha hanno i il la le lo loro ma molto nei nel nella nelle non nostro o ogni per perché più
        poi quando quella quello questa questo se senza si sia sono sta su sua sue sugli sul sulla suo suoi tra tutti
        un una uno dell' all' dall' nell' sull' d' l'
    """,
    "nl": """
        aan alle als altijd bij dan dat de deze dit door een elke en er geen heeft het hij hoe hun ik je jouw kan kunnen
        maar meer met mijn naar niet nog nu of om onder ons ook op over te tegen tot tussen uit uw van veel voor waar
        wat werd wie wordt worden zal ze zeer zich zij zijn zo zonder
    """,
    "pt": """
        à ao aos as até com como da das de depois do dos e é ela ele em entre era essa esse esta este eu foi há isso já
        lhe mais mas muito na nas não nem no nos nossa nosso num numa o os ou para pela pelas pelo pelos por porque
        quando que quem são se sem ser seu seus só sobre sua suas também tem todos um uma uns
    """,
}
_ENGLISH = frozenset(("as", "do", "no", "of", "over", "plus", "son", "on", "me", "a", "i", "o"))

FUNCTION_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {code: frozenset(words.split()) - _ENGLISH for code, words in _WORDS.items()}
)
"""By the code of the language; those with an apostrophe are parts of words, as in l'arbre."""
