"""Schemas of attention are what my_transformers declares: nothing lost on the way to a file or a flag, or back."""

import copy
import pickle
from dataclasses import fields

import pytest
from pydantic import TypeAdapter, ValidationError

from dl_proj.models.attention_settings import SCHEMAS, AttentionConfig, AttentionSchema
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.lsh.settings import LSHSettings, TransformersLSHSettings
from my_transformers.registry import SETTINGS

every = pytest.mark.parametrize("declared", SETTINGS, ids=lambda declared: declared.kind)


@every
def test_fields_defaults_and_meanings_are_those_declared(declared):
    schema = SCHEMAS[declared.kind]
    assert schema.__doc__ == declared.__doc__
    assert set(schema.model_fields) == {field.name for field in fields(declared)} | {"kind"}
    for field in fields(declared):
        made = schema.model_fields[field.name]
        assert (made.default, made.description) == (field.default, field.metadata["help"])
        assert made.description.split(":")[0] in {one.kind for one in SETTINGS} or field.name == "dropout"
    assert schema().settings == declared()


@pytest.mark.parametrize(
    ("declared", "field"),
    [(declared, field) for declared in SETTINGS for field in fields(declared) if field.metadata["bounds"]],
    ids=lambda part: getattr(part, "kind", None) or part.name,
)
def test_bounds_are_kept(declared, field):
    bounds, schema = field.metadata["bounds"], SCHEMAS[declared.kind]
    wrong = [bounds["ge"] - 1] if "ge" in bounds else []
    wrong += [bounds["lt"]] if "lt" in bounds else []
    wrong += [bounds["ge"] + 1] if "multiple_of" in bounds else []
    assert wrong
    for value in wrong:
        given = [value] if isinstance(field.default, tuple) or field.name == "bucket_factors" else value
        with pytest.raises(ValidationError, match=field.name):
            schema.model_validate({field.name: given})


@pytest.mark.parametrize(
    "settings",
    [
        LSHSettings(n_rounds=2, window=7),
        TransformersLSHSettings(bucket_factors=(2, 4), keep_rotations=True),
        LinformerSettings(rank=(3, 5), sharing="none"),
    ],
    ids=lambda settings: settings.kind,
)
def test_settings_in_code_and_in_a_file_are_the_same(settings):
    schema = AttentionSchema.of(settings)
    assert schema.settings == settings
    assert TypeAdapter(AttentionConfig).validate_python(schema.model_dump(mode="json")) == schema
    assert schema.model_fields_set < set(type(schema).model_fields)  # what is as usual is not given
    for again in (copy.deepcopy(schema), pickle.loads(pickle.dumps(schema))):  # as other processes get it
        assert again == schema
        assert again.model_fields_set == schema.model_fields_set


def test_a_schema_is_as_strict_as_all():
    for wrong in ({"n_rounds": True}, {"rounds": 2}, {"n_rounds": 1.5}, {"kind": "full"}):
        with pytest.raises(ValidationError):
            SCHEMAS["lsh"].model_validate(wrong)
