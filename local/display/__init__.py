"""The event display: prints each event that the Broker delivers, and shows requests on a live page.

event_form     an event as Knative's event_display prints it
masking        an event without what may be secret, for the page
subscription   follows the Broker's activity
requests       the state and the timeline of each request
timeline       the entries of a timeline, in words
buttons        what the page's buttons do: send an example, retry a dead request
page           the routes; `static/` is what the browser runs
"""
