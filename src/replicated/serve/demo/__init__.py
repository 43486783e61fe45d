"""The demo: an application worth replicating, and the proof of the pattern with live traffic.

Its parts run as programs of their own, so nothing is re-exported here: `python -m` warns when the
package has already imported the module that is to be run.
"""

__all__: list[str] = []
