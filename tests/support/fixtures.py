"""The types of fixtures that many tests take."""

from collections.abc import Callable

from psi.values import Values

People = Callable[[int, int], Values]  # people(3, 7) is the values of the persons 3, 4, 5 and 6
Random = Callable[[int], bytes]
