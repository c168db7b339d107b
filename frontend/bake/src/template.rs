//! Templates: text with `${...}` and `%{...}` in it.

use std::sync::Arc;

use hcl_edit::template::{Directive, Element, Strip, Template};
use rgraph_ir::limits::MAX_BAKE_VALUE;

use crate::budget::{Error, Result};
use crate::eval::{Eval, Scope, pairs};
use crate::value::Value;

impl Eval<'_> {
    /// The text of a template; one that is a single `${...}` is the value in it.
    pub(crate) fn template(&self, t: &Template, scope: &Scope<'_>) -> Result<Value> {
        if let Some(Element::Interpolation(i)) = t.as_single_element() {
            return self.value(&i.expr, scope);
        }
        let mut out = String::new();
        self.write(t, scope, &mut out)?;
        Value::text(out, self.budget())
    }

    fn write(&self, t: &Template, scope: &Scope<'_>, out: &mut String) -> Result<()> {
        let _level = self.budget().deeper()?;
        let elements: Vec<&Element> = t.iter().collect();
        for (at, element) in elements.iter().enumerate() {
            match element {
                Element::Literal(text) => {
                    let before = at.checked_sub(1).and_then(|b| strips(elements[b]));
                    let after = elements.get(at + 1).and_then(|e| strips(e));
                    let mut text = text.value().as_str();
                    if before.is_some_and(|(_, last)| last.strip_end()) {
                        text = text.trim_start();
                    }
                    if after.is_some_and(|(first, _)| first.strip_start()) {
                        text = text.trim_end();
                    }
                    self.add(text, out)?;
                }
                Element::Interpolation(i) => {
                    let text = self.value(&i.expr, scope)?.to_text();
                    let text = text.map_err(|e| e.about("cannot put it into a string"));
                    self.add(
                        &text.map_err(|e| e.at(self.file, hcl_edit::Span::span(&i.expr)))?,
                        out,
                    )?;
                }
                Element::Directive(d) => self.directive(d, scope, out)?,
            }
        }
        Ok(())
    }

    fn directive(&self, d: &Directive, scope: &Scope<'_>, out: &mut String) -> Result<()> {
        match d {
            Directive::If(d) => {
                let branch = match self.value(&d.if_expr.cond_expr, scope)?.to_bool()? {
                    true => Some(&d.if_expr.template),
                    false => d.else_expr.as_ref().map(|e| &e.template),
                };
                branch.map_or(Ok(()), |t| self.write(t, scope, out))
            }
            Directive::For(d) => {
                let over = self.value(&d.for_expr.collection_expr, scope)?;
                let key = d.for_expr.key_var.as_ref().map(|k| Arc::<str>::from(k.value().as_str()));
                let name: Arc<str> = d.for_expr.value_var.value().as_str().into();
                for (k, v) in pairs(&over)? {
                    self.budget().steps(1)?;
                    let mut names = vec![(name.clone(), v)];
                    names.extend(key.clone().map(|key| (key, k)));
                    self.write(&d.for_expr.template, &Scope::new(&names, Some(scope)), out)?;
                }
                Ok(())
            }
        }
    }

    fn add(&self, text: &str, out: &mut String) -> Result<()> {
        if out.len() + text.len() > MAX_BAKE_VALUE {
            return Err(Error::limit(format!(
                "a string would be larger than {MAX_BAKE_VALUE} bytes"
            )));
        }
        self.budget().steps(1 + text.len() / 16)?;
        out.push_str(text);
        Ok(())
    }
}

/// The marks of an element's first and last brace: whether white space beside it goes.
fn strips(e: &Element) -> Option<(Strip, Strip)> {
    match e {
        Element::Literal(_) => None,
        Element::Interpolation(i) => Some((i.strip, i.strip)),
        Element::Directive(d) => Some(match &**d {
            Directive::If(d) => (d.if_expr.strip, d.endif_expr.strip),
            Directive::For(d) => (d.for_expr.strip, d.endfor_expr.strip),
        }),
    }
}
