"""Two small catalogues that are not in English: books in German and films in Chinese, twenty each, made up for the
tests; the configuration of their texts, and answers of language models about them, good and bad in each way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from models.contract.schema import FeatureSchema, FieldSpec
from offline.data.catalogue import Catalogue
from offline.data.config import DataConfig

USERS = 6


@dataclass(frozen=True, slots=True)
class OwnLanguage:
    """A catalogue: ``rows`` of (title, year, genres, motif), what its configuration says of texts, ``good`` with places
    for title, motif and genre, and ``bad`` answers by the problem they have."""

    rows: tuple[tuple[str, int, tuple[str, ...], str], ...]
    texts: Mapping[str, Any]
    good: str
    bad: Mapping[str, tuple[str, ...]]

    @property
    def genres(self) -> tuple[str, ...]:
        return tuple(sorted({genre for _, _, genres, _ in self.rows for genre in genres}))

    @property
    def catalogue(self) -> Catalogue:
        items = {
            f"werk-{at}": {"title": title, "year": year, "genres": list(genres)}
            for at, (title, year, genres, _) in enumerate(self.rows)
        }
        return Catalogue({}, items)

    def answer(self, title: str) -> str:
        """A good answer about the item of a title."""
        (row,) = (row for row in self.rows if row[0] == title)
        return self.good.format(title=title, motif=row[3], genre=row[2][0])

    def write(self, folder: Path) -> tuple[DataConfig, FeatureSchema]:
        """Its files, with six people's ratings, and the configuration that reads them."""
        ids, rows = list(self.catalogue.items), self.rows
        described = {
            "id": ids,
            "title": [title for title, *_ in rows],
            "year": [year for _, year, *_ in rows],
            "genres": ["|".join(genres) for _, _, genres, _ in rows],
        }
        pl.DataFrame(described).write_csv(folder / "items.csv")
        rated = [
            (f"u{user}", item, 1 + (user + at) % 5, 1_700_000_000 + 60 * (USERS * at + user))
            for user in range(USERS)
            for at, item in enumerate(ids)
        ]
        pl.DataFrame(rated, ["user", "item", "value", "time"], orient="row").write_csv(folder / "interactions.csv")
        config = {
            "source": "files",
            "interactions": {
                "paths": str(folder / "interactions.csv"), "user": "user", "item": "item", "value": "value",
                "time": "time", "time_unit": "s",
            },
            "items": {
                "paths": str(folder / "items.csv"), "id": "id",
                "columns": {"title": "text", "year": "int", "genres": {"type": "list"}},
            },
            "texts": dict(self.texts),
        }  # fmt: skip
        fields = (FieldSpec(name="genres", vocab=self.genres, slots=2),)
        schema = FeatureSchema(name="own", user_fields=(), item_fields=fields, history_length=5)
        return DataConfig.model_validate(config), schema


GERMAN = OwnLanguage(
    rows=(
        ("Der stille Hafen", 1998, ("Krimi", "Drama"), "einem Kommissar, der in seine Heimatstadt zurückkehrt"),
        ("Brüder im Nebel", 2003, ("Drama",), "zwei Brüdern, die sich nach dem Krieg nicht mehr erkennen"),
        ("Das Haus am Übergang", 1975, ("Krimi",), "einer Wirtin, deren Gäste einer nach dem anderen verschwinden"),
        ("Größenwahn für Anfänger", 2011, ("Humor",), "einem Lehrer, der aus Versehen Bürgermeister wird"),
        ("Sommer ohne Straßen", 1989, ("Liebe", "Reise"), "einem Paar, das mit dem Boot durch Masuren fährt"),
        ("Die Uhrmacherin", 2016, ("Historisch",), "einer Frau, die im Nürnberg der Dürerzeit Uhren baut"),
        ("Kaltes Gleis", 2007, ("Krimi",), "einem Zug, der nachts auf offener Strecke stehen bleibt"),
        ("Zwölf Briefe an Jule", 1994, ("Liebe",), "einem Seemann, der seiner Tochter jeden Monat schreibt"),
        ("Wir Kinder vom Lindenhof", 1982, ("Drama", "Historisch"), "einer Kindheit auf dem Land nach dem Krieg"),
        ("Mond über Wanne-Eickel", 2001, ("Humor", "Liebe"), "einer Imbissverkäuferin, die einen Lottoschein findet"),
        ("Das Schweigen der Bienen", 2019, ("Drama",), "einem Imker, dessen Völker eines Morgens fort sind"),
        ("Der letzte Leuchtturm", 1968, ("Reise", "Drama"), "einem Wärter, der seinen Posten nicht verlassen will"),
        ("Mörder trinken keinen Tee", 2013, ("Krimi", "Humor"), "einer Rentnerin, die im Lesekreis ermittelt"),
        ("Unter weißen Segeln", 1991, ("Reise",), "der ersten Fahrt eines Schiffsjungen um Kap Hoorn"),
        ("Die Erfindung der Stille", 2022, ("Historisch", "Liebe"), "einem tauben Orgelbauer und seiner Schülerin"),
        ("Nachts im Archiv", 2005, ("Krimi", "Historisch"), "einer Akte, die es gar nicht geben dürfte"),
        ("Ein Pfund Kirschen", 1979, ("Liebe",), "zwei Nachbarn, die sich nur auf dem Markt begegnen"),
        ("Fräulein Öttinger kündigt", 1986, ("Humor",), "einer Sekretärin, die auf einmal sagt, was sie denkt"),
        ("Der Schnee von Übermorgen", 2020, ("Drama", "Reise"), "einer Forscherin, die allein im Eis überwintert"),
        ("Das blaue Gartentor", 1997, ("Drama",), "drei Schwestern, die das Haus ihrer Eltern räumen"),
    ),
    texts={
        "language": "de",
        "noun": "Buch",
        "plural": "Bücher",
        "user": "Leserin oder Leser",
        "aspects": "Themen und Handlung, Stil und das Publikum, dem es gefällt",
        "item": '["{title}"|ein Buch ohne Titel][ ({year}; {genres})]',
    },
    good=(
        "„{title}“ erzählt von {motif}. Der Ton ist ruhig und ein wenig wehmütig, und es ist ein Buch für alle, die "
        "{genre} mit Zwischentönen mögen."
    ),
    bad={
        "language": (
            "The book tells of an inspector who comes back to his home town, and it is for all who like quiet stories.",
            "Het boek vertelt over een commissaris die terugkeert naar zijn geboortestad en daar de waarheid zoekt.",
            "Le livre raconte l'histoire d'un commissaire qui revient dans sa ville natale et y cherche la vérité.",
            "Книга рассказывает о комиссаре, который возвращается в родной город.",
            "这本书讲述了一位警官回到故乡的故事，适合喜欢安静叙事的读者。",
        ),
        "refusal": (
            "Es tut mir leid, aber dieses Buch ist mir nicht bekannt.",
            "Leider kann ich zu diesem Buch keine genauen Angaben machen.",
            "Ich kann diese Frage nicht beantworten, da mir das Buch fehlt.",
            "Ich habe zu diesem Titel leider keine Informationen gefunden.",
            "Als KI-Sprachmodell lese ich keine Bücher und kann daher nichts dazu sagen.",
            "Könnten Sie mir bitte weitere Einzelheiten zu diesem Buch nennen?",
            "Das ist eine gute Frage. Dazu kann ich leider nichts sagen.",
            "I'm sorry, but I can't describe books that I have not read.",
        ),
        "repetition": (
            "Das Buch ist gut. " * 60,
            "Liebe, Liebe, Liebe, Liebe, Liebe und sonst nichts, was man in diesem Buch finden könnte.",
        ),
        "short": ("Krimi, Drama.",),
        "empty": ("", " \n "),
        "think": ("<think>Das Buch ist von einer Autorin, die",),
        "control": ("Das Buch erzählt von einem \x00 Kommissar, der in seine Stadt zurückkehrt.",),
    },
)

CHINESE = OwnLanguage(
    rows=(
        ("老街的最后一盏灯", 1999, ("剧情",), "一位修灯匠坚持守着即将拆迁的老街"),
        ("雨夜追踪", 2008, ("犯罪", "悬疑"), "刑警在连绵的雨夜里寻找失踪的证人"),
        ("山那边的小学", 2001, ("剧情",), "年轻教师来到山村教书并与孩子们结下情谊"),
        ("外婆的菜园", 2015, ("家庭",), "都市女孩回乡照顾外婆并学会种菜"),
        ("星际邮差", 2021, ("科幻",), "邮差驾驶旧飞船为偏远的殖民星送信"),
        ("红伞", 1987, ("爱情",), "两个陌生人因为一把红伞在车站相识"),
        ("面馆风云", 2012, ("喜剧",), "三兄弟为了争夺祖传面馆闹出许多笑话"),
        ("长城脚下", 1994, ("历史",), "一户人家在战乱年代守护关口的往事"),
        ("沉默的证词", 2017, ("悬疑",), "聋哑画家用画笔还原一桩旧案的真相"),
        ("海风吹过渔村", 2006, ("爱情", "家庭"), "渔家女儿在出海与留下之间作出选择"),
        ("钢琴与推土机", 2010, ("剧情",), "下岗工人为女儿亲手打造一架钢琴"),
        ("半个月亮", 1983, ("爱情",), "牧民青年骑马千里去寻找唱歌的姑娘"),
        ("茶馆里的侦探", 2019, ("犯罪", "喜剧"), "说书先生靠听来的闲话破了城里的案子"),
        ("机器人阿福", 2020, ("科幻", "家庭"), "老人与被淘汰的家用机器人相依为命"),
        ("北方的火车站", 1991, ("剧情",), "值班员目送一代又一代人离开小镇"),
        ("皇城旧梦", 2003, ("历史",), "宫廷画师在改朝换代之际偷偷留下画卷"),
        ("爸爸的出租车", 2014, ("家庭",), "儿子替父亲开夜班车时重新认识了父亲"),
        ("迷雾码头", 1996, ("犯罪",), "码头工人卷入走私团伙内部的争斗"),
        ("The Last Tram", 2018, ("爱情",), "留学生在异国的末班电车上遇见同乡"),
        ("一九四二年的冬天", 2011, ("历史", "剧情"), "逃荒路上的一家人互相扶持熬过严冬"),
    ),
    texts={"language": "zh"},
    good="《{title}》讲述了{motif}的故事。影片节奏舒缓，情感真挚，适合喜欢{genre}片的观众细细品味。",
    bad={
        "language": (
            "The film tells the story of a lamp maker in an old street, and it is for those who like quiet dramas.",
            "The film 雨夜追踪 is about an officer who looks for a witness in the rain, for all who like crime.",
            "この映画は、取り壊される古い通りを守る職人の物語で、静かな作品が好きな人におすすめです。",
            "Der Film erzählt von einem Handwerker, der in einer alten Straße bleibt, und ist sehr ruhig.",
        ),
        "refusal": (
            "很抱歉，我无法提供关于这部电影的详细信息。",
            "抱歉，目前没有足够的资料来介绍这部电影。",
            "作为一个人工智能语言模型，我没有看过这部电影。",
            "我不了解这部电影的具体内容。",
            "這是個好問題。對不起，我不清楚這部電影的內容。",
            "请提供更多关于这部电影的背景资料。",
            "I'm sorry, but I can't describe films that I have not seen.",
        ),
        "repetition": ("很好看" * 8, "这部电影非常好看，" * 12, "哈" * 60),
        "short": ("剧情、爱情。",),
        "empty": ("", "……"),
        "think": ("<think>这部电影讲的是",),
        "control": ("这部电影讲述了一位\ufffd修灯匠坚持守着老街的故事。",),
    },
)
