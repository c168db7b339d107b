//! Template text to nodes.

use serde_json::Value;

/// Deepest nesting of blocks and of parentheses.
const DEEPEST: usize = 100;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct TemplateError(pub(super) String);

pub(super) fn fail<T>(why: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(why.into()))
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// As it stands.
    Text(String),
    /// Printed.
    Print(Pipe),
    /// `$x := ...`, `$x = ...`.
    Set(String, Pipe),
    /// Conditions in order with what each guards, and what holds otherwise.
    If(Vec<(Pipe, Vec<Node>)>, Vec<Node>),
    /// The value becomes `.` (and the variable) unless it is empty.
    With(Option<String>, Pipe, Vec<Node>, Vec<Node>),
    /// Names of index and element.
    Range(Option<String>, Option<String>, Pipe, Vec<Node>, Vec<Node>),
}

/// Commands, each given the value of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipe(pub Vec<Vec<Term>>);

/// One word of a command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Term {
    /// `.A.B`; without names `.` itself.
    Field(Vec<String>),
    /// `$x.A`; `$` has the empty name.
    Var(String, Vec<String>),
    /// A text, a number, `true`, `nil`.
    Literal(Value),
    /// A function's name.
    Function(String),
    /// `(...)` and fields after it.
    Group(Pipe, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Term(Term),
    Word(String),
    Open,
    Close(Vec<String>),
    Pipe,
    Declare,
    Comma,
}

/// Reads a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: split(text)?.into_iter(), depth: 0 };
    match parser.block()? {
        (nodes, End::File) => Ok(nodes),
        (_, End::Block) => fail("`{{end}}` without a block"),
        (_, End::Else(_)) => fail("`{{else}}` without a block"),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Cuts a template at its braces.
fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let (mut before, after) = (&rest[..at], &rest[at + 2..]);
        if trim {
            before = before.trim_start();
        }
        let (inner, dash) = match after.strip_prefix('-') {
            Some(i) if i.starts_with([' ', '\t', '\n', '\r']) => (i, true),
            _ => (after, false),
        };
        if dash {
            before = before.trim_end();
        }
        if !before.is_empty() {
            out.push(Piece::Text(before.to_owned()));
        }
        let trimmed = inner.trim_start();
        let (tokens, left) = match trimmed.strip_prefix("/*") {
            Some(comment) => {
                let Some((_, left)) = comment.split_once("*/") else {
                    return fail("a comment is not closed");
                };
                (None, left)
            }
            None => {
                let (tokens, left) = tokens(inner)?;
                (Some(tokens), left)
            }
        };
        let left = left.trim_start();
        let (left, dash) = match left.strip_prefix('-') {
            Some(l) => (l, true),
            None => (left, false),
        };
        let Some(left) = left.strip_prefix("}}") else { return fail("`{{` is not closed") };
        trim = dash;
        rest = left;
        if let Some(t) = tokens {
            out.push(Piece::Action(t));
        }
    }
    let rest = if trim { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        out.push(Piece::Text(rest.to_owned()));
    }
    Ok(out)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Takes `.A.B` off the front.
fn fields(mut rest: &str) -> (Vec<String>, &str) {
    let mut out = Vec::new();
    while let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        if end == 0 {
            break;
        }
        out.push(after[..end].to_owned());
        rest = &after[end..];
    }
    (out, rest)
}

/// The words of an action up to its closing braces.
fn tokens(text: &str) -> Result<(Vec<Token>, &str), TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.starts_with("}}") || rest.starts_with("-}}") {
            return Ok((out, rest));
        }
        let Some(c) = rest.chars().next() else { return fail("`{{` is not closed") };
        let single = &rest[c.len_utf8()..];
        match c {
            '(' => (rest, _) = (single, out.push(Token::Open)),
            ')' => {
                let (names, after) = fields(single);
                out.push(Token::Close(names));
                rest = after;
            }
            '|' => (rest, _) = (single, out.push(Token::Pipe)),
            ',' => (rest, _) = (single, out.push(Token::Comma)),
            ':' if single.starts_with('=') => {
                (rest, _) = (&single[1..], out.push(Token::Declare));
            }
            '=' => (rest, _) = (single, out.push(Token::Declare)),
            '.' => {
                let (names, after) = fields(rest);
                rest = if names.is_empty() { single } else { after };
                out.push(Token::Term(Term::Field(names)));
            }
            '$' => {
                let end = single.find(|c| !is_name(c)).unwrap_or(single.len());
                let (names, after) = fields(&single[end..]);
                out.push(Token::Term(Term::Var(single[..end].to_owned(), names)));
                rest = after;
            }
            '"' | '`' => {
                let (value, after) = quoted(rest)?;
                out.push(Token::Term(Term::Literal(Value::String(value))));
                rest = after;
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = single
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                    .map_or(rest.len(), |i| i + c.len_utf8());
                let word = rest[..end].trim_start_matches('+');
                let number = word
                    .parse::<i64>()
                    .map(Value::from)
                    .or_else(|_| word.parse::<f64>().map(Value::from))
                    .map_err(|_| TemplateError(format!("`{word}` is no number")))?;
                out.push(Token::Term(Term::Literal(number)));
                rest = &rest[end..];
            }
            c if is_name(c) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let word = &rest[..end];
                out.push(match word {
                    "true" | "false" => Token::Term(Term::Literal((word == "true").into())),
                    "nil" => Token::Term(Term::Literal(Value::Null)),
                    _ => Token::Word(word.to_owned()),
                });
                rest = &rest[end..];
            }
            c => return fail(format!("unexpected `{}`", c.escape_default())),
        }
    }
}

/// A Go string literal at the front.
fn quoted(text: &str) -> Result<(String, &str), TemplateError> {
    if let Some(raw) = text.strip_prefix('`') {
        return match raw.split_once('`') {
            Some((value, after)) => Ok((value.to_owned(), after)),
            None => fail("a text is not closed"),
        };
    }
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Ok((out, &text[i + 1..])),
            '\n' => break,
            '\\' => out.push(match chars.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(c @ ('"' | '\\' | '\'')) => c,
                _ => return fail("a text has an escape that is not supported"),
            }),
            c => out.push(c),
        }
    }
    fail("a text is not closed")
}

/// What a block ended with.
enum End {
    /// The whole template.
    File,
    /// `{{end}}`.
    Block,
    /// With what follows `else`.
    Else(Vec<Token>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut out = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(t) => {
                    out.push(Node::Text(t));
                    continue;
                }
                Piece::Action(t) => t,
            };
            let Some(Token::Word(word)) = tokens.first() else {
                out.push(action(tokens)?);
                continue;
            };
            match word.as_str() {
                "end" => return Ok((out, End::Block)),
                "else" => return Ok((out, End::Else(tokens[1..].to_vec()))),
                "if" | "with" | "range" => {
                    let word = word.clone();
                    out.push(self.nested(&word, &tokens[1..])?);
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return fail(format!("`{word}` is not supported"));
                }
                _ => out.push(action(tokens)?),
            }
        }
        Ok((out, End::File))
    }

    fn nested(&mut self, word: &str, head: &[Token]) -> Result<Node, TemplateError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return fail("it is nested too deeply");
        }
        let unclosed = || format!("`{{{{{word}}}}}` has no `{{{{end}}}}`");
        let mut head = head.to_vec();
        let mut branches = Vec::new();
        let (first, otherwise) = loop {
            let (body, end) = self.block()?;
            match end {
                End::File => return fail(unclosed()),
                End::Block => break (body, Vec::new()),
                End::Else(more) => match more.first() {
                    Some(Token::Word(w)) if w == "if" && word == "if" => {
                        branches.push((pipe(&head)?, body));
                        head = more[1..].to_vec();
                    }
                    None => {
                        let (other, end) = self.block()?;
                        if !matches!(end, End::Block) {
                            return fail(unclosed());
                        }
                        break (body, other);
                    }
                    Some(_) => return fail("`{{else}}` takes `if` or nothing"),
                },
            }
        };
        self.depth -= 1;
        let var = |t: &Token| match t {
            Token::Term(Term::Var(name, f)) if f.is_empty() => Some(name.clone()),
            _ => None,
        };
        Ok(match word {
            "if" => {
                branches.push((pipe(&head)?, first));
                Node::If(branches, otherwise)
            }
            "with" => match &head[..] {
                [name, Token::Declare, rest @ ..] => {
                    Node::With(var(name), pipe(rest)?, first, otherwise)
                }
                _ => Node::With(None, pipe(&head)?, first, otherwise),
            },
            _ => match &head[..] {
                [index, Token::Comma, item, Token::Declare, rest @ ..] => {
                    Node::Range(var(index), var(item), pipe(rest)?, first, otherwise)
                }
                [item, Token::Declare, rest @ ..] => {
                    Node::Range(None, var(item), pipe(rest)?, first, otherwise)
                }
                _ => Node::Range(None, None, pipe(&head)?, first, otherwise),
            },
        })
    }
}

fn action(tokens: Vec<Token>) -> Result<Node, TemplateError> {
    match &tokens[..] {
        [Token::Term(Term::Var(name, f)), Token::Declare, rest @ ..] if f.is_empty() => {
            Ok(Node::Set(name.clone(), pipe(rest)?))
        }
        all => Ok(Node::Print(pipe(all)?)),
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe, TemplateError> {
    let mut at = 0;
    let out = commands(tokens, &mut at, 0)?;
    match at == tokens.len() {
        true => Ok(out),
        false => fail("a `)` or `,` too many"),
    }
}

/// Commands up to the end or a closing parenthesis, which is left.
fn commands(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipe, TemplateError> {
    if depth > DEEPEST {
        return fail("it is nested too deeply");
    }
    let mut out = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        let last = out.len() - 1;
        match token {
            Token::Term(t) => out[last].push(t.clone()),
            Token::Word(w) => out[last].push(Term::Function(w.clone())),
            Token::Pipe => out.push(Vec::new()),
            Token::Open => {
                *at += 1;
                let inner = commands(tokens, at, depth + 1)?;
                match tokens.get(*at) {
                    Some(Token::Close(f)) => out[last].push(Term::Group(inner, f.clone())),
                    _ => return fail("a `(` is not closed"),
                }
            }
            Token::Close(_) | Token::Comma => break,
            Token::Declare => return fail("unexpected `=`"),
        }
        *at += 1;
    }
    if out.iter().any(Vec::is_empty) {
        return fail("nothing between braces, parentheses or bars");
    }
    Ok(Pipe(out))
}
