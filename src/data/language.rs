//! The language that a text is in, told by its script, and among languages of Latin and Cyrillic script by their most common words.
//!
//! Good for a slice of a data set, not for a single short text: of three words or fewer it often says `?`, of close relatives (Danish and Norwegian,
//! Croatian and others that are not listed) it may name the wrong one, and a text in two languages has the one with more words.

/// What is said where nothing can be said.
pub const UNKNOWN: &str = "?";

/// Words that are looked at: the first page shows the language.
const WORDS: usize = 200;

/// ISO 639-1 code and the most common words, which stand for their language in inverse proportion to how many lists name them.
#[rustfmt::skip]
const COMMON: &[(&str, &str)] = &[
    ("en", "the of and to in is you that it for was on are with this have from be my i not what can your how do does did will would there has been but they we he she or an at if when which their me why get need am please want where any hello hi thanks card account"),
    ("de", "der die das und ist nicht ich ein eine zu den mit von es auf sie für dem des im wie mein meine kann wird hat haben auch bei aus werden war wenn oder noch nur über wo warum bitte sind bin mir mich einen einer nach uns wir was keine hallo danke habe"),
    ("fr", "le la les de des et est un une je vous que qui dans pour pas sur au aux avec il elle nous ce cette mon ma mes ne plus par du en sont être avoir comment pourquoi où mais ou si votre vos ai ont fait c'est j'ai n'est suis bonjour merci puis quand"),
    ("es", "el la los las de y es en un una que por para con no se su mi lo como más pero del al está yo qué cómo dónde porque me te tu si cuando muy ha he son ser tengo puedo hay esta este ya hola gracias mis o"),
    ("it", "il lo la gli le di e è un una che per con non si in su mi come ma del della al sono ho hai ha più questo questa perché dove quando anche io mio mia se ci da nel nella alla dei posso grazie ciao i o"),
    ("pt", "o a os as de e é um uma que para com não em no na do da por se meu minha como mais mas dos das ao está eu você onde quando porque foi ser ter tem são isso este esta já muito olá obrigado posso nos"),
    ("nl", "de het een en van ik is niet dat in op te zijn met voor mijn hoe wat kan er aan maar om je ook als naar bij uit heb heeft wordt waar waarom nog dit die deze u wij zij geen wel hallo bedankt mij"),
    ("sv", "och i att det som en på är av för med jag inte den till har de om ett men var hur mitt min mina kan du vi ska från eller när vad också så min hej tack efter"),
    ("da", "og i at det som en på er af for med jeg ikke den til har de om et men var hvordan min mit mine kan du vi skal fra eller når hvad også så hej tak efter jer hvor mig"),
    ("no", "og i at det som en på er av for med jeg ikke den til har de om et men var hvordan min mitt mine kan du vi skal fra eller når hva også så hei takk etter hvor meg noe"),
    ("fi", "ja on ei se että en hän oli mutta minun miten kuin mitä voi tai olen kun niin jos vain myös ole sen tämä mikä missä miksi minä sinä hei kiitos korttini"),
    ("pl", "i w nie na się z do to że jest jak co mam mój moja po dla czy od ale o tak za tym jestem być przez gdzie dlaczego kiedy może są proszę dzień dobry dziękuję mi"),
    ("cs", "a v je se na to že s z do jak co mám můj moje pro ale o tak za jsem být kde proč kdy může jsou prosím dobrý den děkuji mi není jsme by které který"),
    ("ro", "și în de la un o nu este cu pe care să ce mai din pentru am meu mea cum unde când dar sunt fi a au lui sau dacă vă rog mulțumesc bună"),
    ("hu", "a az és hogy nem is van egy ez meg de ha mint már csak én mit hol miért kérem köszönöm lehet vagy volt nekem hogyan az"),
    ("tr", "ve bir bu için ile ne de da mi nasıl var yok ben çok daha olarak kadar neden nerede benim değil ama gibi sonra merhaba teşekkürler lütfen mı"),
    ("id", "yang dan di ini itu untuk dengan saya tidak ke dari apa bagaimana ada akan pada bisa sudah adalah atau anda kartu kenapa mana karena juga"),
    ("vi", "và của là không tôi có cho được này trong một với các như thế nào bạn đã để khi làm sao tại"),
    ("ru", "и в не на что я с как это по но он она мы вы у за от к так же для мне мой моя мою где почему есть был если или когда можно здравствуйте пожалуйста"),
    ("uk", "і в не на що я з як це по але він вона ми ви у за від до так для мені мій моя де чому є був якщо або коли можна вітаю будь ласка та"),
    ("bg", "и в не на че аз с как това по но той тя ние вие за от към така ми моя моята къде защо има беше ако или кога може здравейте моля се да е"),
];

/// The language of a text as an ISO 639-1 code, or [`UNKNOWN`].
pub fn of(text: &str) -> &'static str {
    let mut scripts = [0_u32; SCRIPTS.len()];
    for c in text.chars().filter(|c| c.is_alphabetic()).take(2_000) {
        if let Some(at) =
            SCRIPTS.iter().position(|(_, ranges)| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)))
        {
            scripts[at] += 1;
        }
    }
    let of = |name: &str| SCRIPTS.iter().position(|(n, _)| *n == name).map_or(0, |at| scripts[at]);
    // Japanese mixes kana into Chinese characters; what has some kana is Japanese.
    let most = scripts.iter().enumerate().max_by_key(|(at, n)| (**n, std::cmp::Reverse(*at)));
    match most {
        Some((_, 0)) | None => UNKNOWN,
        Some((at, _)) => match SCRIPTS[at].0 {
            "latin" | "cyrillic" => by_words(text),
            "zh" if of("ja") * 10 >= of("zh") && of("ja") > 0 => "ja",
            "ar" if text.contains(['پ', 'چ', 'ژ', 'گ']) => "fa",
            language => language,
        },
    }
}

/// Scripts that one language, or one main language, is written in, by that language; and two that many are.
#[rustfmt::skip]
const SCRIPTS: [(&str, &[(char, char)]); 12] = [
    ("latin", &[('A', 'Z'), ('a', 'z'), ('\u{c0}', '\u{24f}'), ('\u{1e00}', '\u{1eff}')]),
    ("cyrillic", &[('\u{400}', '\u{52f}')]),
    ("zh", &[('\u{4e00}', '\u{9fff}'), ('\u{3400}', '\u{4dbf}')]),
    ("ja", &[('\u{3040}', '\u{30ff}')]),
    ("ko", &[('\u{ac00}', '\u{d7af}'), ('\u{1100}', '\u{11ff}')]),
    ("ar", &[('\u{600}', '\u{6ff}'), ('\u{750}', '\u{77f}')]),
    ("he", &[('\u{590}', '\u{5ff}')]),
    ("el", &[('\u{370}', '\u{3ff}'), ('\u{1f00}', '\u{1fff}')]),
    ("hi", &[('\u{900}', '\u{97f}')]),
    ("th", &[('\u{e00}', '\u{e7f}')]),
    ("bn", &[('\u{980}', '\u{9ff}')]),
    ("ta", &[('\u{b80}', '\u{bff}')]),
];

fn by_words(text: &str) -> &'static str {
    let table = table();
    let mut scores = vec![0.0_f32; COMMON.len()];
    let words = text.split(|c: char| !(c.is_alphabetic() || c == '\'')).filter(|w| !w.is_empty());
    for word in words.take(WORDS) {
        if let Some(languages) = table.get(word.to_lowercase().as_str()) {
            for &at in languages {
                scores[at] += 1.0 / languages.len() as f32;
            }
        }
    }
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    // One word that many languages share says nothing.
    best.filter(|(_, score)| **score >= 0.5).map_or(UNKNOWN, |(at, _)| COMMON[at].0)
}

type Table = std::collections::HashMap<&'static str, Vec<usize>>;

fn table() -> &'static Table {
    static TABLE: std::sync::OnceLock<Table> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::new();
        for (at, (_, words)) in COMMON.iter().enumerate() {
            for word in words.split_whitespace() {
                let of = table.entry(word).or_default();
                if !of.contains(&at) {
                    of.push(at);
                }
            }
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_support_messages_are_told_apart() {
        for (text, language) in [
            ("Where is my card? I have been waiting for two weeks.", "en"),
            ("Wo ist meine Karte? Ich warte schon seit zwei Wochen.", "de"),
            ("Où est ma carte ? J'attends depuis deux semaines.", "fr"),
            ("¿Dónde está mi tarjeta? La espero desde hace dos semanas.", "es"),
            ("Dove è la mia carta? La aspetto da due settimane.", "it"),
            ("Onde está o meu cartão? Estou à espera há duas semanas.", "pt"),
            ("Waar is mijn kaart? Ik wacht al twee weken.", "nl"),
            ("Var är mitt kort? Jag har väntat i två veckor.", "sv"),
            ("Gdzie jest moja karta? Czekam od dwóch tygodni.", "pl"),
            ("Kartım nerede? İki haftadır bekliyorum, neden bu kadar çok sürdü?", "tr"),
            ("Где моя карта? Я жду уже две недели.", "ru"),
            ("Де моя картка? Я чекаю вже два тижні.", "uk"),
            ("我的卡在哪里?", "zh"),
            ("私のカードはどこですか", "ja"),
            ("내 카드는 어디에 있나요?", "ko"),
            ("أين بطاقتي؟", "ar"),
            ("Πού είναι η κάρτα μου;", "el"),
            ("मेरा कार्ड कहाँ है?", "hi"),
            ("", UNKNOWN),
            ("12345 !!", UNKNOWN),
            ("xyzzy", UNKNOWN),
        ] {
            assert_eq!(of(text), language, "{text}");
        }
    }
}
