"""Money: how many digits a currency has, and rounding to its unit."""

from decimal import ROUND_HALF_UP, Decimal, localcontext

_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

UNUSUAL_DIGITS = {
    currency: count for count, currencies in _BY_DIGITS.items() for currency in currencies.split()
}
"""The currencies of ISO 4217 whose minor unit is not a hundredth, with its decimal digits."""


def digits(currency: str) -> int:
    """Return how many decimal digits the unit of `currency` (ISO 4217, upper case) has."""
    return UNUSUAL_DIGITS.get(currency, 2)


def round_to_unit(amount: Decimal, *, currency: str) -> Decimal:
    """Round `amount` half up to the smallest unit of `currency`: 0.005 USD is 0.01 USD."""
    with localcontext() as context:
        context.prec = 60
        return amount.quantize(Decimal(1).scaleb(-digits(currency)), rounding=ROUND_HALF_UP)


def with_markup(price: Decimal, *, percentage: Decimal, currency: str) -> Decimal:
    """Return `price` plus `percentage` per cent of it, rounded to the unit of `currency`."""
    with localcontext() as context:
        context.prec = 60
        return round_to_unit(price * (100 + percentage) / 100, currency=currency)
