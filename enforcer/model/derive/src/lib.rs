//! The derive macro for `enforcer_model::settings::Setting`, which compares two values of a type field
//! by field. It compares a new field as soon as the field exists.
//!
//! A field has these attributes, as `#[setting(…)]`:
//!
//! | attribute | meaning |
//! |---|---|
//! | `live`, `restart` | The cost of a change of this field. |
//! | `by_field` | The type of this field says the cost for each of its own fields. |
//! | `key = "…"` | The manifest's key, if it is neither the name of the field nor in `#[schemars(rename = "…")]`. An empty key, as `#[schemars(flatten)]`, belongs to the section around it. |
//! | `secret` | The value is compared and never shown. |
//! | `unset = "…"` | The text for `None`, where that does not mean the default. |
//! | `unit = "…"` | The unit after a number. |
//!
//! A variant's key is its name in lower case. Each field of a struct needs a cost. A struct or enum with `#[setting(inherit)]` is a section
//! whose fields all have the cost of the field that holds it.
#![forbid(unsafe_code)]

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Error, Field, Fields, LitStr, Result};

/// Derives `Setting` for a struct with named fields, or an enum.
#[proc_macro_derive(Setting, attributes(setting))]
pub fn derive_setting(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// The attributes of a field, or of a type.
#[derive(Default)]
struct Attributes {
    cost: Option<TokenStream>,
    by_field: bool,
    inherits: bool,
    key: Option<String>,
    is_secret: bool,
    unset: Option<String>,
    unit: Option<String>,
}

impl Attributes {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        for attribute in attributes {
            if attribute.path().is_ident("schemars") {
                found.read_key(attribute)?;
            }
            if !attribute.path().is_ident("setting") {
                continue;
            }
            attribute.parse_nested_meta(|meta| {
                let text = || Ok::<_, Error>(meta.value()?.parse::<LitStr>()?.value());
                match meta.path.require_ident()?.to_string().as_str() {
                    "live" => found.cost = Some(quote!(.live())),
                    "restart" => found.cost = Some(quote!(.restart())),
                    "by_field" => found.by_field = true,
                    "inherit" => found.inherits = true,
                    "secret" => found.is_secret = true,
                    "key" => found.key = Some(text()?),
                    "unset" => found.unset = Some(text()?),
                    "unit" => found.unit = Some(text()?),
                    _ => return Err(meta.error("unknown attribute of a setting")),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Takes the key from the attributes of the schema, so that it is written once.
    fn read_key(&mut self, attribute: &Attribute) -> Result<()> {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("rename") {
                self.key = Some(meta.value()?.parse::<LitStr>()?.value());
            } else if meta.path.is_ident("flatten") {
                self.key = Some(String::new());
            } else if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            }
            Ok(())
        })
    }

    /// Returns the expression for the place of a field.
    fn place(&self, key: &str) -> TokenStream {
        let key = self.key.as_deref().unwrap_or(key);
        let cost = self.cost.iter();
        let secret = self.is_secret.then(|| quote!(.secret()));
        let unset = self.unset.as_ref().map(|text| quote!(.unset(#text)));
        let unit = self.unit.as_ref().map(|text| quote!(.unit(#text)));
        quote!(at.field(#key) #(#cost)* #secret #unset #unit)
    }
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let inherits = Attributes::read(&input.attrs)?.inherits;
    let (text, compare) = match &input.data {
        Data::Struct(data) => of_struct(&data.fields, inherits)?,
        Data::Enum(data) => {
            let mut texts = Vec::new();
            let mut pairs = Vec::new();
            for variant in &data.variants {
                let name = &variant.ident;
                let key = name.to_string().to_lowercase();
                let (text, pair) = of_variant(name, &key, &variant.fields)?;
                texts.push(text);
                pairs.extend(pair);
            }
            (
                quote!(match self { #(#texts)* }),
                quote! {
                    match (old, new) {
                        #(#pairs)*
                        (old, new) => at.compare_whole(old, new, changes),
                    }
                },
            )
        }
        Data::Union(_) => return Err(Error::new_spanned(input, "a union has no settings")),
    };
    let name = &input.ident;
    Ok(quote! {
        impl crate::settings::Setting for #name {
            fn text(&self) -> Option<String> {
                #text
            }

            fn compare(
                old: &Self,
                new: &Self,
                at: &crate::settings::Place,
                changes: &mut Vec<crate::plan::SettingChange>,
            ) {
                #compare
            }
        }
    })
}

/// Returns the attributes of a field and its name; its cost must be known.
fn named(field: &Field, inherits: bool) -> Result<(Attributes, &syn::Ident)> {
    let attributes = Attributes::read(&field.attrs)?;
    let Some(name) = &field.ident else {
        return Err(Error::new_spanned(field, "expected a named field"));
    };
    if !inherits && !attributes.by_field && attributes.cost.is_none() {
        let message =
            "expected `#[setting(live)]`, `#[setting(restart)]` or `#[setting(by_field)]`";
        return Err(Error::new_spanned(field, message));
    }
    Ok((attributes, name))
}

fn of_struct(fields: &Fields, inherits: bool) -> Result<(TokenStream, TokenStream)> {
    let mut parts = Vec::new();
    let mut compares = Vec::new();
    for field in fields {
        let (attributes, name) = named(field, inherits)?;
        let place = attributes.place(&name.to_string());
        parts.push(quote!(text.add(&#place, &self.#name);));
        compares.push(quote! {
            crate::settings::Setting::compare(&old.#name, &new.#name, &#place, changes);
        });
    }
    let text = quote! {
        let at = crate::settings::Place::root();
        let mut text = crate::settings::SectionText::default();
        #(#parts)*
        text.finish()
    };
    Ok((text, quote!(#(#compares)*)))
}

/// Returns the arm for the text of a variant, and the arm that compares two of the same variant, if
/// it has fields.
fn of_variant(
    name: &syn::Ident,
    key: &str,
    fields: &Fields,
) -> Result<(TokenStream, Option<TokenStream>)> {
    match fields {
        Fields::Unit => Ok((quote!(Self::#name => Some(#key.to_owned()),), None)),
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Ok((
            quote! {
                Self::#name(value) => {
                    let at = crate::settings::Place::root();
                    let mut text = crate::settings::SectionText::default();
                    text.add(&at.field(#key), value);
                    text.finish()
                }
            },
            Some(quote! {
                (Self::#name(old), Self::#name(new)) => {
                    crate::settings::Setting::compare(old, new, &at.field(#key), changes);
                }
            }),
        )),
        Fields::Unnamed(fields) => Err(Error::new_spanned(fields, "expected one field, or names")),
        Fields::Named(fields) => {
            let mut names = Vec::new();
            let mut places = Vec::new();
            for field in &fields.named {
                let (attributes, name) = named(field, true)?;
                places.push(attributes.place(&name.to_string()));
                names.push(name);
            }
            let old: Vec<_> = names
                .iter()
                .map(|name| format_ident!("old_{name}"))
                .collect();
            let new: Vec<_> = names
                .iter()
                .map(|name| format_ident!("new_{name}"))
                .collect();
            Ok((
                quote! {
                    Self::#name { #(#names),* } => {
                        let at = crate::settings::Place::root();
                        let mut text = crate::settings::SectionText::of(#key);
                        #(text.add(&#places, #names);)*
                        text.finish()
                    }
                },
                Some(quote! {
                    (Self::#name { #(#names: #old),* }, Self::#name { #(#names: #new),* }) => {
                        let at = &at.field(#key);
                        #(crate::settings::Setting::compare(#old, #new, &#places, changes);)*
                    }
                }),
            ))
        }
    }
}
