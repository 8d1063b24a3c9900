"""Rounding and markup."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.records.money import UNUSUAL_DIGITS, digits, round_to_unit, with_markup

currencies = st.sampled_from(["USD", "EUR", "JPY", "KWD", "CLF", *UNUSUAL_DIGITS])
prices = st.decimals(0, Decimal("99999999999999.9999"), places=4)
percentages = st.decimals(0, 500, places=2)


@pytest.mark.parametrize(
    ("price", "percentage", "currency", "expected"),
    [
        ("10.00", "20", "USD", "12.00"),
        ("9.99", "15", "USD", "11.49"),  # 11.4885
        ("0.01", "50", "USD", "0.02"),  # 0.015, half up
        ("0.05", "10", "USD", "0.06"),  # 0.055
        ("0.25", "10", "USD", "0.28"),  # 0.275
        ("0.45", "10", "USD", "0.50"),  # 0.495
        ("1", "50", "JPY", "2"),  # 1.5, half up
        ("5", "10", "JPY", "6"),  # 5.5
        ("15", "10", "JPY", "17"),  # 16.5, half up; half even gives 16
        ("1.005", "10", "KWD", "1.106"),  # 1.1055
        ("1.0005", "0", "CLF", "1.0005"),
        ("19.90", "0", "USD", "19.90"),
        ("19.90", "500", "USD", "119.40"),
    ],
)
def test_markup_is_rounded_half_up_to_the_currency_s_unit(
    price: str, percentage: str, currency: str, expected: str
) -> None:
    marked = with_markup(Decimal(price), percentage=Decimal(percentage), currency=currency)
    assert str(marked) == expected


@given(price=prices, percentage=percentages, currency=currencies)
def test_a_marked_up_price_is_the_nearest_whole_unit(
    price: Decimal, percentage: Decimal, currency: str
) -> None:
    marked = with_markup(price, percentage=percentage, currency=currency)
    (a, b), (c, d) = price.as_integer_ratio(), (100 + percentage).as_integer_ratio()
    # Whole numbers only: floor(x + 1/2) for x = price * (100 + percentage) / 100 / unit.
    numerator, denominator = a * c * 10 ** digits(currency), b * d * 100
    expected = (2 * numerator + denominator) // (2 * denominator)
    assert marked == Decimal(expected).scaleb(-digits(currency))


@given(price=prices, currency=currencies)
def test_rounding_twice_changes_nothing(price: Decimal, currency: str) -> None:
    once = round_to_unit(price, currency=currency)
    assert round_to_unit(once, currency=currency) == once
