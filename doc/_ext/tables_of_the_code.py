# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directives that write tables of columns, configuration fields and
connections out of the code that defines them.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lsst.meas.tno import SCHEMAS, Column, _schema
from lsst.meas.tno.cli import cmd as commands
from lsst.pex.config import ChoiceField, Config, ConfigField, Field, RangeField, RegistryField
from lsst.pipe.base import PipelineTaskConfig


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], widths: str) -> str:
    """Return a table in reStructuredText.

    Parameters
    ----------
    header
        Heads of the columns.
    rows
        Text of the cells.
    widths
        Relative widths of the columns.
    """
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        for index, cell in enumerate(row):
            mark = "* -" if index == 0 else "  -"
            lines.append(f"   {mark} {cell}".rstrip())
    return "\n".join([*lines, ""])


def one_line(text: str) -> str:
    """Return text on one line, safe to be put into a cell.

    Parameters
    ----------
    text
        Text of a docstring or a description.
    """
    return " ".join(text.split()).replace("\\", "\\\\").replace("*", "\\*").replace("`", "``")


def literal(value: object) -> str:
    """Return a value in the type of code.

    Parameters
    ----------
    value
        The value.
    """
    return f"``{value}``"


def column_rows(columns: Iterable[Column]) -> Iterator[tuple[str, ...]]:
    """Yield what there is to say of columns.

    Parameters
    ----------
    columns
        Columns of a table.

    Yields
    ------
    row : `tuple` [`str`]
        Cells.
    """
    for column in columns:
        shape = ", ".join(str(size) for size in column.shape)
        dtype = "text" if column.dtype == "U" else column.dtype
        missing = "" if column.missing is None else literal(repr(column.missing))
        yield (
            literal(column.name),
            f"{dtype} ({shape})" if shape else dtype,
            column.unit or "",
            missing,
            one_line(column.doc),
        )


def columns_table(columns: Iterable[Column]) -> str:
    """Return a table of columns.

    Parameters
    ----------
    columns
        Columns of a table.
    """
    return table(
        ("Column", "Type", "Unit", "Missing", "What it holds"), column_rows(columns), "18 14 10 10 48"
    )


def column_constants() -> list[str]:
    """Return the names of the constants that describe tables, in the order of
    the dataset types.
    """
    names = [name for name in _schema.__all__ if name.endswith("_COLUMNS")]
    first = {name: first_use(getattr(_schema, name)) for name in names}
    return sorted(names, key=first.__getitem__)


def first_use(columns: Iterable[Column]) -> int:
    """Return the number of the first dataset type that has some columns.

    Parameters
    ----------
    columns
        The columns.
    """
    return next(index for index, schema in enumerate(SCHEMAS.values()) if set(columns) <= set(schema))


def columns_of(dataset_type: str) -> str:
    """Return the names of the constants that a dataset's columns are of.

    Parameters
    ----------
    dataset_type
        Name of the dataset type.
    """
    rest = list(SCHEMAS[dataset_type])
    parts = []
    for name in column_constants():
        columns = getattr(_schema, name)
        if set(columns) <= set(SCHEMAS[dataset_type]):
            parts.append(f":ref:`{name} <{name}>`")
            rest = [column for column in rest if column not in columns]
    if rest:
        parts.append("and " + ", ".join(literal(column.name) for column in rest))
    return ", ".join(parts)


def datasets_table() -> str:
    """Return a table of all dataset types that are tables."""
    rows = ((literal(name), columns_of(name)) for name in SCHEMAS)
    return table(("Dataset type", "Columns"), rows, "35 65")


def config_text(config_class: type[Config], prefix: str, title: str) -> str:
    """Return tables of all fields of a configuration, those of its parts
    included.

    Parameters
    ----------
    config_class
        Class of the configuration.
    prefix
        What stands before a field's name on a command line.
    title
        What the table is called.
    """
    rows, parts = [], []
    config = config_class()
    for name, field in own_fields(config_class):
        match field:
            case RegistryField():
                rows.append(
                    (literal(prefix + name), literal(getattr(config, name).name), one_line(field.doc))
                )
                parts += registry_parts(field, f"{prefix}{name}")
            case ConfigField():
                parts.append(config_text(field.dtype, f"{prefix}{name}.", ""))
            case _:
                rows.append((literal(prefix + name), default_of(config, name), describe(field)))
    heading = [f"**{title}**", ""] if title else []
    fields = [table(("Field", "Default", "Meaning"), rows, "34 18 48")] if rows else []
    return "\n".join([*heading, *fields, *parts])


def registry_parts(field: RegistryField, name: str) -> list[str]:
    """Return tables of the choices of a registry.

    Parameters
    ----------
    field
        The field of the registry.
    name
        Its name on a command line.
    """
    registry = field.registry
    return [
        config_text(registry[choice].ConfigClass, f"{name}.active.", f"{name} = {choice}")
        for choice in sorted(registry)
    ]


def own_fields(config_class: type[Config]) -> Iterator[tuple[str, Field]]:
    """Yield the fields that are not of every task.

    Parameters
    ----------
    config_class
        Class of the configuration.

    Yields
    ------
    name, field : `str`, `lsst.pex.config.Field`
        Name and field.
    """
    for name, field in config_class._fields.items():
        if name not in PipelineTaskConfig._fields or not issubclass(config_class, PipelineTaskConfig):
            yield name, field


def default_of(config: Config, name: str) -> str:
    """Return the default of a field.

    Parameters
    ----------
    config
        Configuration as it is made.
    name
        Name of the field.
    """
    value = getattr(config, name)
    if isinstance(value, Mapping):
        return ", ".join(f"``{key}: {item:.6g}``" for key, item in value.items())
    if value is not None and not isinstance(value, str | bool | int | float):
        value = list(value)
    return literal("None" if value is None else value if value != "" else "''")


def describe(field: Field) -> str:
    """Return what a field means and what it may be.

    Parameters
    ----------
    field
        The field.
    """
    text = one_line(field.doc)
    if isinstance(field, RangeField):
        text += f" In {literal(field.rangeString)}."
    if isinstance(field, ChoiceField):
        choices = {key: value for key, value in field.allowed.items() if key is not None}
        text += " " + " ".join(f"{literal(key)}: {one_line(value)}" for key, value in choices.items())
    return text


def connections_table(task: Any) -> str:
    """Return a table of what a task reads and writes.

    Parameters
    ----------
    task
        Class of the task.
    """
    connections = task.ConfigClass.ConnectionsClass
    templates = connections.defaultTemplates
    rows = []
    for kind, names in connection_kinds(connections):
        for name in sorted(names):
            connection = connections.allConnections[name]
            dimensions = ", ".join(sorted(connection.dimensions)) or "none"
            dataset = literal(connection.name.format(**templates))
            rows.append((kind, dataset, connection.storageClass, dimensions, one_line(connection.doc)))
    return table(("", "Dataset type", "Storage class", "Dimensions", "What it is"), rows, "12 24 16 18 30")


def connection_kinds(connections: Any) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the kinds of connections and their names.

    Parameters
    ----------
    connections
        Class of the connections.

    Yields
    ------
    kind, names : `str`, `~collections.abc.Iterable` [`str`]
        Kind and names.
    """
    yield "Input", connections.inputs
    yield "Prerequisite", connections.prerequisiteInputs
    yield "Output", connections.outputs


def command_text(command: click.Command) -> str:
    """Return the help of a subcommand.

    Parameters
    ----------
    command
        The subcommand.
    """
    name = str(command.name)
    context = click.Context(command, info_name=f"butler {name}", max_content_width=88)
    help_text = textwrap.indent(command.get_help(context), "   ")
    return f".. rubric:: {name}\n\n.. code-block:: none\n\n{help_text}\n"


def import_object(name: str) -> Any:
    """Import an object.

    Parameters
    ----------
    name
        Module and name of the object.
    """
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


class TextDirective(SphinxDirective):
    """Base of directives that write reStructuredText."""

    required_arguments: ClassVar[int] = 1

    def make_text(self) -> str:
        """Return the text."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.make_text())


class ColumnsDirective(TextDirective):
    """All columns of the schema, one table for each constant."""

    required_arguments = 0

    def make_text(self) -> str:
        parts = [datasets_table()]
        for name in _schema.__all__:
            if name.endswith("_COLUMNS"):
                parts += [
                    f".. _{name}:",
                    "",
                    f".. rubric:: {name}",
                    "",
                    columns_table(getattr(_schema, name)),
                ]
        return "\n".join(parts)


class ConfigDirective(TextDirective):
    """All fields of a configuration class."""

    def make_text(self) -> str:
        return config_text(import_object(self.arguments[0]), "", "")


class CommandsDirective(TextDirective):
    """What each subcommand says of itself."""

    required_arguments = 0

    def make_text(self) -> str:
        names = sorted(commands.__all__)
        found = [getattr(commands, name) for name in names]
        return "\n".join(command_text(command) for command in found)


class TaskDirective(TextDirective):
    """What a task reads and writes, and its class."""

    def make_text(self) -> str:
        name = self.arguments[0]
        return f"{connections_table(import_object(name))}\n.. autoclass:: {name}\n   :members: run\n"


def skip_fields(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:  # numpydoc ignore=PR01,RT01
    """Leave out the fields of configurations, which have tables."""
    return True if isinstance(obj, Field) else None


def setup(app: Sphinx) -> dict[str, bool]:  # numpydoc ignore=PR01,RT01
    """Register the directives with Sphinx."""
    app.add_directive("tno-columns", ColumnsDirective)
    app.add_directive("tno-commands", CommandsDirective)
    app.add_directive("tno-config", ConfigDirective)
    app.add_directive("tno-task", TaskDirective)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True}
