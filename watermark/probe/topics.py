# ruff: noqa: E501
"""Where prompts/default.jsonl comes from: kinds of request, and things to ask each about. Written by hand for this.

Open-ended on purpose: an answer with many likely continuations says more about what the suspect learnt.
`python -m watermark.probe.topics` writes the file anew; it depends on nothing but these lists.
"""

from __future__ import annotations

from pathlib import Path

from watermark.files import canonical_json, write_whole

PROMPTS = Path(__file__).with_name("prompts") / "default.jsonl"

KINDS: tuple[tuple[tuple[str, str], str], ...] = (
    (
        ("Write a short story about {}.", "Tell me a story; this should be in it: {}."),
        "a lighthouse keeper who receives letters for somebody else; two rivals stuck in a lift; a baker who can no "
        "longer smell; the last night of a travelling circus; a child who befriends a scarecrow; a map with a village "
        "that does not exist; a retired pilot and a paper plane; an orchestra that lost its conductor; a night bus "
        "driver and one silent passenger; a clockmaker's apprentice; a garden that grows only at midnight; siblings "
        "who inherit a ferry; a translator who changes one word; a robot learning to cook; a town that forgets its "
        "name; a beekeeper in a big city; a lost glove that travels round the world; an honest thief; a painter who "
        "sees only two colours; a wedding in a snowstorm; the oldest tree in a park; a librarian hiding a secret room; "
        "a dog that waits at a station; a quarrel over a chess game; the inventor of a useless machine; a mountain "
        "guide afraid of heights; a letter found in a second-hand coat; a violin that was buried; neighbours who "
        "share one wall; a diver who finds a piano",
    ),
    (
        ("Explain {} to someone who has never heard of it.", "What is the principle behind {}? Describe it in plain words."),
        "a heat pump; the tide; compound interest; a sourdough starter; a vaccine; a lock and key; photosynthesis; "
        "an auction; an election by ranked choice; a sewing machine; noise-cancelling headphones; a glacier; a suspension "
        "bridge; inflation; a rainbow; the immune system; a refrigerator; a stock exchange; a bicycle gear; yeast; "
        "an earthquake; a touch screen; the water cycle; a jury trial; a solar eclipse; crop rotation; a microwave oven; "
        "a search engine; echolocation; a canal lock",
    ),
    (
        ("Give detailed advice to somebody who wants to {}.", "I would like to {}. Where should I begin, and why?"),
        "learn to swim as an adult; keep a diary; move to a new country; grow tomatoes on a balcony; start running; "
        "read more books; make friends in a new town; repair an old bicycle; speak in public without fear; cook for "
        "ten guests; save money on a small income; learn the piano at forty; write a novel; sleep better; adopt an old "
        "cat; change careers; plan a long walk; draw portraits; organise a messy garage; learn a language alone; "
        "start a small bakery; volunteer abroad; spend less time on the phone; photograph birds; prepare for a job "
        "interview; teach a child chess; keep chickens; forgive an old friend; travel by train only; build a bookshelf",
    ),
    (
        ("Write a letter {}.", "Draft a warm and personal letter {}."),
        "to a former teacher; from a sailor to his daughter; to your future self; to the person who bought your "
        "childhood home; apologising for a missed birthday; to a newspaper about a closed library; from a gardener to "
        "her successor; to a neighbour about a noisy rooster; inviting old classmates to a reunion; from a cat to its "
        "owner; to a landlord about a broken heater; thanking a stranger for help; to a museum about a lost painting; "
        "from an explorer stuck in the ice; resigning from a job you loved; to a friend who moved away; to a favourite "
        "author; from a grandmother to a newborn; to the mayor about a playground; declining a marvellous offer; from "
        "a lighthouse to a ship; asking for advice about a difficult brother; to a chef after a memorable meal; from "
        "the moon to the earth; to a pen pal on another continent",
    ),
    (
        ("Describe {} so that a reader can see, hear and smell it.", "Paint {} in words, with many small details."),
        "a fish market at dawn; an abandoned railway station; a kitchen before a feast; a harbour in fog; a desert "
        "after rain; a workshop where violins are made; the first snow in a village; a crowded night market; an old "
        "cinema; a beach in winter; a waiting room; a forest after a fire; a bakery at four in the morning; a school "
        "on the last day of term; an attic full of trunks; a river in flood; a hospital corridor at night; a mountain "
        "hut; a greenhouse in spring; a tram in the rush hour; a carpenter's bench; an island with one house; "
        "a thunderstorm over a plain; a dance hall; a city seen from a rooftop",
    ),
    (
        ("Compare {} and say which you would choose.", "What speaks for and against {}? Weigh them up."),
        "living in a city and living in the country; trains and aeroplanes; paper books and screens; tea and coffee; "
        "summer and winter; working alone and working in a team; cats and dogs; renting and owning a home; films and "
        "plays; mountains and the sea; cooking at home and eating out; hand tools and power tools; early mornings and "
        "late nights; big families and small ones; a plan and an improvisation; letters and telephone calls; museums "
        "and parks; jazz and classical music; bicycles and buses; being an expert and knowing a little of everything; "
        "school uniforms and free choice; old houses and new ones; saving and spending; fame and privacy; "
        "boats and tents",
    ),
    (
        ("Imagine that {}. What would change?", "Suppose {}: describe an ordinary day after that."),
        "people could breathe under water; nobody needed sleep; the wheel had never been invented; animals could talk "
        "for one hour a year; money lost its value overnight; the moon were twice as near; everyone aged backwards; "
        "all maps disappeared; plants could walk; there were no more secrets; the sun rose only once a week; we could "
        "smell music; gravity were halved; printing had been invented in ancient Rome; people lived three hundred "
        "years; every house could fly; cats ruled the world; the oceans were fresh water; a second sun appeared; "
        "nobody could lie; winter lasted ten years; machines did all the work; colours vanished; we met visitors from "
        "another star; dreams could be shared",
    ),
    (
        ("Write a dialogue between {}.", "Write a scene for the stage: {}."),
        "a tailor and a customer in a hurry; a river and a bridge; two astronauts during a long silence; a judge and "
        "a poet; a grandfather and a tablet computer; a burglar and a parrot; an optimist and a weather forecaster; "
        "two strangers sharing an umbrella; a ghost and an estate agent; a chef and a food critic; a shepherd and a "
        "programmer; twins who have not met for years; a teacher and a pupil who is right; a statue and a pigeon; "
        "a detective and a witness who lies; a doctor and a hypochondriac; a king and his gardener; a tourist and a "
        "local; winter and spring; a captain and a stowaway; a bookseller and a thief of one page; an actor and the "
        "prompter; a dentist and a dragon; a mother and a daughter packing; two clocks showing different times",
    ),
    (
        ("Write a poem about {}.", "Write a few verses about {}, without clichés."),
        "rust; a kettle; waiting; the smell of rain; a borrowed coat; ladders; salt; an unanswered telephone; moths; "
        "the word perhaps; a bridge at night; onions; small hours; an empty swimming pool; lost keys; a neighbour's "
        "piano; harvest; a scar; wind in wires; buttons; the first day of school; fog; a cracked cup; migrating geese; "
        "forgetting",
    ),
    (
        ("Plan {} for me, step by step.", "Help me to plan {}; think of what could go wrong."),
        "a weekend in an unknown city; a surprise party for a shy person; a vegetable garden; a week of simple dinners; "
        "a family picnic; a school play; a move to a smaller flat; a winter hike; a reading club; a charity run; a "
        "museum visit with small children; a long train journey; a street festival; a kitchen renovation; a stargazing "
        "night; a neighbourhood flea market; a day without electricity; a treasure hunt; a reunion of cousins; a "
        "first camping trip; a home concert; a visit by an elderly aunt; a photo exhibition; a cycling holiday; "
        "a workshop about bread",
    ),
    (
        ("Give your opinion on this, with reasons: {}", "Discuss from several sides: {}"),
        "should museums be free?; is boredom useful?; should children choose their own bedtime?; can machines be "
        "creative?; is it right to keep animals in zoos?; do we need homework?; should voting be a duty?; is a good "
        "memory a blessing?; can one be lonely in a crowd?; should cities ban cars?; is ambition a virtue?; do proverbs "
        "tell the truth?; should we bring back extinct animals?; is travel still an adventure?; are competitions good "
        "for children?; should everyone learn to cook?; is nostalgia dangerous?; does luck exist?; should old buildings "
        "be kept at any price?; is silence a kind of answer?; ought we to explore space?; do clothes make people?; "
        "should work be shorter?; is art for everybody?; can a lie be kind?",
    ),
    (
        ("Invent {} and describe it in full.", "Come up with {}; give names, details and a little history."),
        "a festival; a board game; a fruit; a small country; a musical instrument; a sport for old people; a "
        "superstition; a museum; an alphabet; a dessert; a guild; a mythical animal; a holiday for machines; a street "
        "with odd shops; a new school subject; a perfume; a secret society of gardeners; a vehicle; a tea ceremony; "
        "a weather phenomenon; a legend about a lake; a family of clowns; a toy; a dance; a forgotten science",
    ),
    (
        ("Write a speech {}.", "Write the words that somebody speaks {}."),
        "for the opening of a bridge; at a friend's wedding; for the retirement of a postman; to encourage a losing "
        "team; at the launch of a ship; in praise of mistakes; for a prize that one does not deserve; on the first day "
        "of a new school; to welcome newcomers to a village; at the funeral of a much-loved dog; against hurry; for a "
        "harvest festival; to persuade a council to plant trees; at the anniversary of a library; in defence of "
        "daydreaming; before a dangerous expedition; for the last day of a theatre; to thank volunteers; about what a "
        "city owes its children; at a reunion after thirty years",
    ),
    (
        ("How would you cook {}? Tell me about the ingredients and the steps.", "Write a recipe for {}, with a story."),
        "a soup for a cold evening; bread with seeds; a birthday cake without eggs; a stew of winter vegetables; "
        "dumplings; a salad that makes a meal; pancakes for a crowd; a pie of apples and pears; noodles from scratch; "
        "a curry of lentils; stuffed peppers; rice for a feast; a breakfast for hikers; pickled cucumbers; a fish baked "
        "in paper; biscuits that keep for weeks; a sauce for everything; jam of wild berries; a dish for one; "
        "a menu from leftovers",
    ),
    (
        ("Tell the life of {} as an invented biography.", "Write the obituary of {}, an imaginary person."),
        "a mapmaker; a woman who collected echoes; a failed magician; a tramp who wrote operas; an inventor of kitchen "
        "tools; a botanist on a tiny island; a goalkeeper; a smuggler turned teacher; a maker of masks; a champion of "
        "lost causes; a bell founder; a woman who taught crows; a hotel porter; a mathematician who hated numbers; "
        "a puppeteer; a glassblower; a river pilot; an archivist of rumours; a weather watcher; a mender of nets",
    ),
    (
        ("Why {}? Give a thoughtful answer.", "Somebody asks: why {}? Answer at some length."),
        "do we tell stories; do cities grow where they do; does music move us; do people collect things; do languages "
        "die; do we laugh; is the sea salty; do empires fall; do we fear the dark; do birds migrate; are old photographs "
        "sad; do children play; does bread rise; do fashions return; is the sky blue; do we dream; do people climb "
        "mountains; do leaves change colour; are borders where they are; does time seem to fly",
    ),
    (
        ("Review {} for a magazine; invent what you need.", "Write an honest review of {}."),
        "a restaurant in a former prison; a novel about a beetle; a hotel without clocks; a film with no words; a "
        "concert in a cave; a very heavy umbrella; an exhibition of shadows; a guided tour of sewers; a play performed "
        "in a bus; a chair made of books; a cookery course; a village fair; an app for talking to plants; a museum of "
        "broken things; a night train; a circus without animals; a pair of walking boots; a poetry festival; a garden "
        "open to the public; a new kind of cheese",
    ),
    (
        ("Describe a day in the life of {}.", "Write the diary of {} for a single day."),
        "a bridge engineer; a street musician; a medieval miller; a deep-sea fish; a nurse on the night shift; a young "
        "queen; a mountain goat; a museum guard; a travelling dentist; a chimney sweep; a radio announcer; a monk who "
        "copies books; a tax inspector; a mountain postman; a diplomat's cook; a wolf; an apprentice glazier; a zoo "
        "vet; a playwright who cannot write; a farmer in a dry year",
    ),
    (
        ("Teach me {} in a few paragraphs.", "Give a short lesson on {}, with examples."),
        "the history of paper; how to look at a painting; the art of listening; the basics of navigation; how proverbs "
        "travel; reading a weather map; the kinds of clouds; how to judge an argument; the story of the potato; what "
        "makes a good question; rhythm; perspective in drawing; the parts of a flower; how laws are made; the uses of "
        "silence; the history of glass; telling trees apart; how to haggle; the grammar of gestures; what archaeologists do",
    ),
    (
        ("Make a list of ten {}, with a sentence or two on each.", "Name ten {} and explain your choice."),
        "things to do on a rainy day; uses of an old door; places where one can think; questions for a first date; "
        "small acts of courage; inventions that nobody thanks; sounds that calm; objects for a time capsule; ways to "
        "say sorry; reasons to walk; lessons from gardening; presents that cost nothing; jobs of the future; rules for "
        "a good argument; smells that bring back childhood; ideas for a shop window; things that were better slowly; "
        "titles of books that ought to exist; habits of happy people; mistakes of beginners",
    ),
    (
        ("Summarise, in your own words, what people mean by {}, and give an example.", "What is {}? Tell it with a story."),
        "hospitality; courage; common sense; tact; homesickness; irony; justice; patience; elegance; wisdom; greed; "
        "solidarity; vanity; trust; melancholy; curiosity; dignity; freedom; gratitude; serendipity",
    ),
    (
        ("Continue this beginning: {}", "Write what comes next: {}"),
        "The parcel had been opened and closed again.; Nobody had told the new doctor about the bell.; It was the third "
        "Tuesday without wind.; My aunt kept her promises in jars.; When the ferry turned round, we all stood up.; The "
        "map was right, but the town was not there.; He had only ever lied about the weather.; On the day the clocks "
        "stopped, Anna was late.; There was a second door behind the first.; The dog knew before we did.; Somebody had "
        "planted roses on the roundabout.; I was hired to count the swans.; The recipe ended in the middle of a word.; "
        "At low tide you could walk to the other house.; The orchestra began without him.; We found the piano in the "
        "field.; Every photograph showed the same stranger.; The lift went down further than it should.; She returned "
        "the book after forty years.; The snow was warm.",
    ),
)  # fmt: skip


def prompts() -> list[dict[str, str]]:
    """All of them, {id, prompt}: kinds take turns, and every topic comes once before any comes in another shape."""
    rows = []
    for turn in range(2):
        columns = [
            [shapes[(place + turn) % 2].format(topic) for place, topic in enumerate(listed.split("; "))]
            for shapes, listed in KINDS
        ]
        longest = max(len(column) for column in columns)
        rows += [column[row] for row in range(longest) for column in columns if row < len(column)]
    return [{"id": f"ask-{number:04d}", "prompt": prompt} for number, prompt in enumerate(rows)]


if __name__ == "__main__":
    write_whole(PROMPTS, b"".join(canonical_json(prompt) + b"\n" for prompt in prompts()))
