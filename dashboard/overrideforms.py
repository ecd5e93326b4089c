"""The form that overrides a setting, with errors a person can act on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone

from dashboard.amounts import setting_text
from dashboard.models import Setting, all_settings
from ratelimit import overrides
from ratelimit.appsettings import AppSettings, checked_override, kind_of, parsed
from ratelimit.models import Override

if TYPE_CHECKING:
    _SettingModelForm = forms.ModelForm[Setting]
else:
    _SettingModelForm = forms.ModelForm

LONGEST_VALUE = 4000
"""Characters."""


class OverrideForm(_SettingModelForm):
    """The value that a setting is to have on all nodes, and which override whoever sends it has seen."""

    new_value = forms.CharField(max_length=LONGEST_VALUE, label="New value", required=False)
    seen = forms.CharField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = Setting
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings_of(self.instance.name)
        self.override = override_of(self.instance.name)
        if self.settings is not None and "new_value" in self.fields:
            self._dress(self.settings)

    @property
    def value_before(self) -> Any:
        """The value in force as this process knows it."""
        return getattr(self.settings, self._field.name)

    @property
    def _field(self) -> Any:
        settings: Any = self.settings
        return settings.names()[self.instance.name]

    @property
    def _version(self) -> str:
        """What tells the override that is stored now from any other; empty where there is none."""
        return self.override.version.hex if self.override else ""

    def _dress(self, settings: AppSettings) -> None:
        """Give the fields what fits the setting."""
        field = self.fields["new_value"]
        field.widget = _widget(kind_of(type(settings), self.instance.name), self._field.metadata)
        field.help_text = _help(self._field.metadata)
        field.initial = _as_text(self.value_before)
        self.fields["seen"].initial = self._version

    def clean_new_value(self) -> Any:
        """Return the value in the type of the setting. What is wrong is said as at the start of a server."""
        settings, name = self.settings, self.instance.name
        assert settings is not None  # noqa: S101 - for the type checker: other rows have no form
        text = ",".join(self.cleaned_data["new_value"].split("\n")) if _is_list(settings, name) else None
        given = parsed(type(settings), name, text or self.cleaned_data["new_value"])
        if (problem := overrides.problem_of(name, given)) is not None:
            raise ValidationError(problem.explanation)
        return checked_override(type(settings), name, given)[0]

    def clean(self) -> dict[str, Any]:
        """Refuse what was decided without knowing of another's change, and what changes nothing."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("seen") != self._version:
            # Seen from now on: the page that says so shows it.
            self.data = {**self.data.dict(), "seen": self._version}  # type: ignore[attr-defined]  # it is a QueryDict
            raise ValidationError(self._superseded())
        if cleaned.get("new_value") == self.value_before and not self.instance.ignored:
            self.add_error("new_value", f"{self.instance.name} is {self.instance.value} already.")
        return cleaned

    def version_seen(self) -> uuid.UUID | None:
        """Return the version of the override that this one takes the place of."""
        return uuid.UUID(self.cleaned_data["seen"]) if self.cleaned_data["seen"] else None

    def _superseded(self) -> str:
        if self.override is None:
            return (
                "Meanwhile somebody has reverted this setting. Nothing was saved: look again, and save again if"
                " you mean it."
            )
        at = timezone.localtime(self.override.set_at)
        stored = self.override.value
        value = setting_text(tuple(stored) if isinstance(stored, list) else stored, self.instance.unit)
        return (
            f"Meanwhile {self.override.by or 'somebody'} has set this to {value}, at {at:%H:%M:%S}. Nothing was"
            " saved: look again, and save again if yours is to take its place."
        )


def settings_of(name: str) -> AppSettings | None:
    """Return the settings in force that a setting is one of; ``None`` if it is none."""
    return next((settings for settings in all_settings() if name in settings.names()), None)


def override_of(name: str) -> Override | None:
    """Return what is stored for a setting."""
    return Override.objects.select_related("by").filter(name=name).first()


def _is_list(settings: AppSettings, name: str) -> bool:
    return isinstance(settings.names()[name].default, tuple)


def _widget(kind: Any, metadata: Mapping[str, Any]) -> forms.Widget:
    if kind is bool:
        return forms.Select(choices=[("true", "on"), ("false", "off")])
    if metadata["choices"] and kind is str:
        return forms.Select(choices=[(choice, choice) for choice in metadata["choices"]])
    if kind in (int, float):
        attributes = {
            "step": "1" if kind is int else "any",
            "min": metadata["minimum"],
            "max": metadata["maximum"],
        }
        return forms.NumberInput({name: value for name, value in attributes.items() if value is not None})
    return forms.Textarea({"rows": 4, "cols": 60, "spellcheck": "false"})


def _help(metadata: Mapping[str, Any]) -> str:
    """Return in which unit and bounds a value has to be."""
    bounds = [
        f"{words} {metadata[name]:,g}"
        for name, words in (("above", "more than"), ("minimum", "at least"), ("maximum", "at most"))
        if metadata[name] is not None
    ]
    return " ".join(f"{part.capitalize()}." for part in (metadata["unit"], ", ".join(bounds)) if part)


def _as_text(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "\n".join(value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.15g}" if isinstance(value, float) else str(value)
