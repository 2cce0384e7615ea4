//! Just enough of a shell's grammar to find the commands in a document.

use std::iter::Peekable;
use std::str::Chars;

/// The simple commands in `text`, each as its words: without quotes, redirections, here-documents and comments. What is
/// substituted is a command of its own, and leaves `$()` in the word it is in.
pub(crate) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut reader = Reader { rest: text.chars().peekable(), found: Vec::new(), documents: Vec::new() };
    reader.list();
    reader.found
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    found: Vec<Vec<String>>,
    /// The words that end the here-documents which begin with the next line.
    documents: Vec<String>,
}

/// A command that is being read.
#[derive(Default)]
struct Command {
    words: Vec<String>,
    word: Option<String>,
    /// Whether the next word is a file, or ends a here-document.
    target: Option<Target>,
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    File,
    Document,
}

impl Reader<'_> {
    /// Up to the end, or to the `)` that ends a list in parentheses.
    fn list(&mut self) {
        let mut command = Command::default();
        while let Some(letter) = self.rest.next() {
            match letter {
                '\'' => self.quoted(command.word.get_or_insert_default()),
                '"' => self.double_quoted(command.word.get_or_insert_default()),
                '\\' if self.rest.next_if_eq(&'\n').is_some() => {}
                '\\' => command.word.get_or_insert_default().extend(self.rest.next()),
                '$' if self.rest.next_if_eq(&'(').is_some() => {
                    self.list();
                    command.word.get_or_insert_default().push_str("$()");
                }
                '#' if command.word.is_none() => while self.rest.next_if(|letter| *letter != '\n').is_some() {},
                '>' | '<' => {
                    // A number before it is that of a file descriptor.
                    command.word.take_if(|word| word.chars().all(|letter| letter.is_ascii_digit()));
                    self.end_word(&mut command);
                    let doubled = self.rest.next_if_eq(&letter).is_some();
                    self.rest.next_if_eq(&'&');
                    command.target = Some(if doubled && letter == '<' { Target::Document } else { Target::File });
                }
                '\n' | ';' | '|' | '&' | '(' | ')' => {
                    self.end_word(&mut command);
                    self.found.extend(Some(std::mem::take(&mut command.words)).filter(|words| !words.is_empty()));
                    match letter {
                        '\n' => self.skip_documents(),
                        '(' => self.list(),
                        ')' => return,
                        _ => {}
                    }
                }
                space if space.is_whitespace() => self.end_word(&mut command),
                letter => command.word.get_or_insert_default().push(letter),
            }
        }
        self.end_word(&mut command);
        self.found.extend(Some(command.words).filter(|words| !words.is_empty()));
    }

    fn end_word(&mut self, command: &mut Command) {
        let Some(word) = command.word.take() else { return };
        match command.target.take() {
            None => command.words.push(word),
            Some(Target::File) => {}
            Some(Target::Document) => self.documents.push(word),
        }
    }

    fn quoted(&mut self, word: &mut String) {
        word.extend(self.rest.by_ref().take_while(|letter| *letter != '\''));
    }

    fn double_quoted(&mut self, word: &mut String) {
        while let Some(letter) = self.rest.next() {
            match letter {
                '"' => return,
                '\\' => word.extend(self.rest.next()),
                '$' if self.rest.next_if_eq(&'(').is_some() => {
                    self.list();
                    word.push_str("$()");
                }
                letter => word.push(letter),
            }
        }
    }

    fn skip_documents(&mut self) {
        for end in std::mem::take(&mut self.documents) {
            while self.rest.peek().is_some() {
                let line: String = self.rest.by_ref().take_while(|letter| *letter != '\n').collect();
                if line == end {
                    break;
                }
            }
        }
    }
}

#[test]
fn commands_are_found_wherever_they_are() {
    let text = "A=1 one 'a b' \"c $(two d) e\" \\\n  f # not this\n(umask 077 && three > file 2>&1)\n\
                four <<'EOF' | five >> log\nnot $(this)\nEOF\nsix; seven &\n";
    let found: Vec<String> = commands(text).iter().map(|words| words.join("_")).collect();
    let expected =
        ["two_d", "A=1_one_a b_c $() e_f", "umask_077", "three", "four", "five", "six", "seven"].map(str::to_owned);
    assert_eq!(found, expected);
}
