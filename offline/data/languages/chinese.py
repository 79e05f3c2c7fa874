"""Chinese, in simplified characters. Refusals are found in traditional ones too."""

from __future__ import annotations

from models.contract.prompts import Notation
from offline.data.languages.language import Language, Sentences, beginnings

_CANNOT = (
    r"(?:无法|無法|不能|没法|沒法|没有办法|沒有辦法|不清楚|不了解|不瞭解|不知道"
    r"|没有(?:足够|相关|任何)|沒有(?:足夠|相關|任何))"
)
_MODEL = r"(?:AI|人工智能|人工智慧|大?(?:语|語)言模型)"
_DECLINING = (
    # "对不起，我爱你" is a title: an apology declines if its sentence says that something cannot be done
    rf"(?:很|非常|十分|真的)?(?:抱歉|遗憾|遺憾|对不起|對不起|不好意思)[^。！？]{{0,30}}{_CANNOT}",
    rf"我(?:目前|暂时|暫時|现在|現在|真的|还|還|并|並)?{_CANNOT}(?!不)",
    rf"作[为為](?:一[个個名款])?{_MODEL}(?:{_MODEL}|模型|助手|助理)?[，,我]",
    r"(?:请|請|能否|可以|您能|你能)(?:您|你|再|为我|為我)?(?:提供|告诉我|告訴我|补充|補充|说明一下|說明一下)",
)

CHINESE = Language(
    code="zh",
    words={
        "item": "[《{title}》|一部无名电影][（{year}；{genres}）|（{year}）|（{genres}）]",
        "name": "[《{title}》]",
        "noun": "电影",
        "plural": "电影",
        "user": "观众",
        "liked": "喜欢",
        "disliked": "不喜欢",
        "topics": "类型",
        "aspects": "主题与情节、氛围，以及喜欢它的人群",
        "tastes": "喜欢什么样的故事、氛围和人物",
    },
    notation=Notation(listing="、", true="是", false="否", unknown="未知内容"),
    sentences=Sentences(
        item_question="请用两句话介绍{noun}{item}：{aspects}。",
        item_text="{item}。{answer}",
        plain_text="{item}。",
        summary_question=(
            "一位{user}{liked}以下{plural}：{liked_names}。\n"
            "这位{user}{disliked}：{disliked_names}。\n"
            "{topics_line}"
            "请用两句话描述这位{user}的品味：{tastes}。"
        ),
        topics_line="这位{user}{liked}的{plural}中最常见的{topics}：{values}。\n",
        profile_line="关于一位{user}：{values}。\n",
        previous_line="前一段时间，这位{user}的品味被描述为：{before}\n",
        item_group_question=(
            "以下{plural}属于同一类：{names}。\n{group_topics}请用两句话描述这一类{noun}：{aspects}。"
        ),
        user_group_question=(
            "几位{user}{liked}以下{plural}：{names}。\n{group_topics}请用两句话描述有同样喜好的{user}的品味：{tastes}。"
        ),
        group_topics="其中最常见的{topics}：{values}。\n",
        nothing="无",
        names="；",
        taste="喜欢{values}。{answer}",
        no_topics="的类型不明",
        liked="喜欢：{names}。",
        disliked="不喜欢：{names}。",
        gap="",
        shift_question=(
            "一位{user}过去的品味是：{before}\n"
            "这位{user}现在的品味是：{now}\n"
            "请用一句话说明这位{user}的品味发生了什么变化。"
        ),
        shift_text="更多{came}；更少{went}。{answer}",
        none_came="同类",
        none_went="（无）",
        second_try=(
            "请用中文回答，只写一到两个简短而完整的句子，不要使用格式，不要写出思考过程。"
            "以上面给出的事实为准。不要重复自己说过的话，也不要重复问题。"
        ),
    ),
    refusal=beginnings(_DECLINING, after=r"[。！？]\s*|[.!?]\s+"),
    script="CJK",
    kana=(0.0, 0.2),  # titles of Japanese films may be quoted
)
