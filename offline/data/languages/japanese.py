"""Japanese. {liked} and {disliked} are verbs that a noun follows ("購入した", "購入しなかった")."""

from __future__ import annotations

from models.contract.prompts import Notation
from offline.data.languages.language import Language, Sentences, beginnings

_CANNOT = (
    r"(?:(?:でき|出来)(?:ません|ない|かね)|いたしかねます|(?:わか|分か)りません|ありません"
    r"|持って(?:い)?ません|存じません)"
)
_DECLINING = (
    r"(?:大変|誠に)?申し訳(?:あり|ござい|な)",
    rf"(?:すみません|すいません|ごめんなさい|恐れ入りますが|残念(?:ながら|ですが))[^。！？]{{0,40}}{_CANNOT}",
    rf"(?:私|わたし)(?:に)?は[^。！？]{{0,40}}{_CANNOT}",
    r"(?:私|わたし)は[^。！？]{0,12}(?:AI|人工知能|言語モデル)",
    r"(?:AI|人工知能|(?:大規模)?言語モデル)(?:アシスタント)?として(?:は)?、",
    r"[^。！？]{0,30}(?:情報|詳細|タイトル|作品名)[^。！？]{0,12}"
    r"(?:教えて|提供して|ご提供|お知らせ)(?:くださ|いただ)",
    rf"[^。！？]{{0,30}}(?:お答え|回答|ご説明|ご紹介)(?:する)?(?:こと)?[はがを]?{_CANNOT}",
)

JAPANESE = Language(
    code="ja",
    words={
        "item": "[『{title}』|無題の映画][（{year}；{genres}）|（{year}）|（{genres}）]",
        "name": "[『{title}』]",
        "noun": "映画",
        "plural": "映画",
        "user": "視聴者",
        "liked": "高く評価した",
        "disliked": "高く評価しなかった",
        "topics": "ジャンル",
        "aspects": "テーマとあらすじ、雰囲気、どのような人に好まれるか",
        "tastes": "どのような物語、雰囲気、登場人物を好むか",
    },
    notation=Notation(listing="、", true="はい", false="いいえ", unknown="不明なもの"),
    sentences=Sentences(
        item_question="{noun}{item}について、次の点を二文で説明してください：{aspects}。",
        item_text="{item}。{answer}",
        plain_text="{item}。",
        summary_question=(
            "ある{user}が{liked}{plural}：{liked_names}。\n"
            "同じ{user}が{disliked}{plural}：{disliked_names}。\n"
            "{topics_line}"
            "この{user}の好みを二文で説明してください：{tastes}。"
        ),
        topics_line="{liked}{plural}に多い{topics}：{values}。\n",
        profile_line="ある{user}について：{values}。\n",
        previous_line="以前、この{user}の好みは次のように説明されました：{before}\n",
        item_group_question=(
            "次の{plural}は同じ種類です：{names}。\n{group_topics}この種類の{noun}を二文で説明してください：{aspects}。"
        ),
        user_group_question=(
            "何人かの{user}が{liked}{plural}：{names}。\n{group_topics}"
            "同じものを好む{user}の好みを二文で説明してください：{tastes}。"
        ),
        group_topics="その中に多い{topics}：{values}。\n",
        nothing="なし",
        names="；",
        taste="{values}を好む。{answer}",
        no_topics="特に決まっていないもの",
        liked="好きな作品：{names}。",
        disliked="好みでない作品：{names}。",
        gap="",
        shift_question=(
            "以前、ある{user}の好みは次のように説明されました：{before}\n"
            "現在は次のように説明されています：{now}\n"
            "この{user}の好みがどう変わったかを一文で述べてください。"
        ),
        shift_text="増えたもの：{came}；減ったもの：{went}。{answer}",
        none_came="変わらず",
        none_went="なし",
        second_try=(
            "日本語で、短く完結した一、二文だけで、書式や考えた過程を書かずに答えてください。"
            "上に示した事実に従ってください。同じことや質問を繰り返さないでください。"
        ),
    ),
    refusal=beginnings(_DECLINING, after=r"[。！？]\s*|[.!?]\s+"),
    script="CJK",
    kana=(0.1, 1.0),  # prose is about half kana; a list of names has few
)
